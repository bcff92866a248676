#!/usr/bin/env bash
# Fresh machine -> dependencies, build, every CPU test. Idempotent.
#   bash tests/run.sh                  everything but what needs the clients, whose tests are skipped
#   bash tests/run.sh --clients        those, too: installs transformers, lm-eval, llama.cpp, ... (5 GB; first word)
#   bash tests/run.sh -R Tokenizer     other arguments go to ctest
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in -h|--help) sed -n '2,5s/^# \{0,1\}//p' tests/run.sh; exit 0 ;; esac
clients=
if [ "${1:-}" = --clients ]; then clients=--clients; shift; fi
started=$SECONDS
step() { printf '\n== %s (%d s so far)\n' "$1" $((SECONDS - started)); }

step "dependencies"
bash configs/setup.sh --tests $clients
step "build"
mkdir -p build
exec {lock}>build/.lock   # train/demo.sh beside this builds, too
flock "$lock"
cmake -S . -B build -G Ninja ${CI:+-DBASIN_WERROR=ON} >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
ninja -C build -j "${JOBS:-$(nproc)}"
exec {lock}>&-
step "tests"
tests_started=$SECONDS
status=0
export GOMP_SPINCOUNT=1000   # tests run side by side: OpenMP's threads must not spin for long
ctest --test-dir build --output-on-failure -j 2 "$@" | tee build/tests.log || status=$?
if [ -n "$clients" ]; then   # then only a GPU may be missing
  skipped=$(sed -nE 's/^[[:space:]]+[0-9]+ - (.*) \(Skipped\)$/\1/p' build/tests.log | grep -vE '^Gpu' || true)
  if [ -n "$skipped" ]; then
    printf 'run: error: --clients was given, and these were skipped all the same:\n%s\n' "$skipped" >&2
    status=1
  fi
fi
printf '\ntests took %d s, everything %d s\n' $((SECONDS - tests_started)) $((SECONDS - started))
exit $status
