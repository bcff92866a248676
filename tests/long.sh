#!/usr/bin/env bash
# The long versions of what the suite runs short, for a quiet machine: three-way streaming agreement over 20 000 tokens, the time of
# a streaming step after a million tokens against one with a just-filled cache, training with the sink against training without, how cost
# grows with size, and the memory that `basin plan` says against what a step takes.
#   bash tests/long.sh                      all five, about 20 minutes on two cores
#   bash tests/long.sh agreement|steps|sink-speed|growth|plan
#   bash tests/long.sh kill [N]             N times (200) kill -9 hits a run of two ranks, which is resumed and ends as if undisturbed
#   bash tests/long.sh faults               every byte of a checkpoint damaged, every call of a run failing in seven ways, power cuts
#   bash tests/long.sh clients [LAYOUT,..]  streaming of every imported layout against a literal reference in Python, 4000 tokens (installs transformers: 5 GB)
#   bash tests/long.sh fuzz [N]             each fuzz target N times (a million), from what earlier runs found on
#   bash tests/long.sh compare [CASE...]    speed against PyTorch, transformers, llama.cpp and SentencePiece (installs them: 5 GB)
cd "$(dirname "$0")/.."
set -euo pipefail
case "${1:-all}" in
  -h|--help) sed -n '2,11s/^# \{0,1\}//p' tests/long.sh; exit 0 ;;
  all|agreement|steps|sink-speed|growth|plan|kill|faults|clients|fuzz|compare) wanted=${1:-all} ;;
  *) printf "long: error: unknown argument '%s': see --help\n" "$1" >&2; exit 2 ;;
esac
wants() { [ "$wanted" = all ] || [ "$wanted" = "$1" ]; }

if [ "$wanted" = clients ]; then
  bash configs/setup.sh --clients
  cmake -S . -B build -G Ninja >/dev/null
  ninja -C build -j 2 --quiet basin basin_model_tool
  exec bash tests/client/run.sh streaming.py --tokens 4000 --cache 32,256 ${2:+--only "$2"}
fi
if [ "$wanted" = compare ]; then
  bash configs/setup.sh --compare
  cmake -S . -B build -G Ninja >/dev/null
  ninja -C build -j 2 --quiet basin >&2   # stdout is the table
  shift
  exec .deps/clients/bin/python tests/bench/compare.py "$@"
fi
bash configs/setup.sh
cmake -S . -B build -G Ninja >/dev/null
if [ "$wanted" = kill ]; then
  ninja -C build -j 2 --quiet basin
  exec python3 tests/durability.py "${2:-200}"
fi
if [ "$wanted" = fuzz ]; then
  bash configs/setup.sh --tests
  cmake -S . -B build -G Ninja >/dev/null
  ninja -C build -j 2 --quiet basin_fuzz
  for target in build/tests/fuzz/*_fuzz; do
    target=${target##*/}
    bash tests/fuzz/run.sh build/tests/fuzz --runs "${2:-1000000}" "${target%_fuzz}"
  done
  exit 0
fi
if [ "$wanted" = faults ]; then
  ninja -C build -j 2 --quiet basin_train_tests basin_durability_tests
  export BASIN_ALL_BYTES=1 BASIN_ALL_FAULTS=1 GOMP_SPINCOUNT=1000
  log=$(mktemp)   # what the programs under test say; stays when they fail
  build/basin_train_tests --gtest_filter='DamageTest.*' 2>"$log"
  build/basin_durability_tests 2>"$log"
  rm -f "$log"
  exit 0
fi
ninja -C build -j 2 --quiet basin basin_infer_tests basin_streaming_bench
if wants agreement; then
  printf '\n== three ways of streaming, 20 000 tokens each\n'
  BASIN_STREAM_TOKENS=20000 ctest --test-dir build --output-on-failure -j 2 -R '/ThreeWays\.'
fi
if wants steps; then
  printf '\n== a step after a million tokens\n'
  build/basin_streaming_bench 1000000
fi
if wants sink-speed; then
  # The sink is one position more in front of 256 or 1024.
  sink_speed() {
    local length=$1 steps=$2 config=$3 scratch round sink; shift 3
    printf '\n== training speed at T %s, in turn: the sink run against the vanilla run\n' "$length"
    scratch=$(mktemp)
    for round in 1 2 3 4 5 6 7 8 9; do
      for sink in none token; do
        printf '%s ' $sink
        build/basin bench train "$config" --set model.sink.kind=$sink --set data.sequence_length="$length" "$@" --steps "$steps" --repetitions 1 --no-peaks --json \
          | sed -n 's/.*"tokens_per_second": *\([0-9.]*\).*/\1/p'
      done
    done | tee "$scratch" | awk '{ printf "%s %.0f tokens/s\n", $1, $2 }'
    median() { grep "^$1 " "$scratch" | cut -d ' ' -f 2 | sort -n | sed -n 5p; }
    awk -v none="$(median none)" -v token="$(median token)" 'BEGIN { printf "medians: vanilla %.0f, sink %.0f tokens/s, ratio %.3f\n", none, token, token / none }'
    rm -f "$scratch"
  }
  sink_speed 256 30 configs/demo.yaml --set model.vocab_size=2048 --set train.global_batch=16
  sink_speed 1024 3 configs/demo.yaml --set model.vocab_size=2048 --set model.hidden_size=256 --set model.num_hidden_layers=6 --set train.global_batch=16
fi
if wants growth; then
  printf '\n== how cost grows\n'
  bash data/demo_corpus.sh
  python3 tests/bench/growth.py
fi
if wants plan; then
  printf '\n== memory of a training step, planned and measured\n'
  python3 tests/bench/plan_memory.py
fi
