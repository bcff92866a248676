#!/usr/bin/env bash
# The main job, end to end: dependencies, build, real text, two pretraining runs that differ in the sink token alone, the one-versus-four
# table, runs/demo/report.html. Idempotent: what is still valid is kept, an interrupted run goes on where it stopped.
#   bash train/demo.sh                 the built-in corpus: presidential addresses and Shakespeare
#   bash train/demo.sh --text PATH     your own text (file or folder of .txt/.jsonl, also .gz/.zst); 5 % of its documents are held out
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '4,5s/^# \{0,1\}//p' train/demo.sh; }
fail() { printf 'demo: error: %s\n' "$*" >&2; exit "${2:-2}"; }

text=""
while [ $# -gt 0 ]; do
  case $1 in
    --text) [ $# -ge 2 ] || fail "--text needs a path"; text=$(realpath -e -- "$2" 2>/dev/null) || fail "--text $2: no such file or folder"; shift 2 ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; fail "unknown argument '$1'" ;;
  esac
done

started=$SECONDS
step() {
  local name=$1 before=$SECONDS; shift
  printf '\n== %s\n' "$name" >&2
  "$@"
  printf -- '-- %s: %d s\n' "$name" $((SECONDS - before)) >&2
}
build() {
  mkdir -p build
  cmake -S . -B build -G Ninja >build/configure.log 2>&1 || { cat build/configure.log >&2; return 1; }
  ninja -C build -j "$(nproc)" basin >&2
}

step "dependencies" bash configs/setup.sh
step "build" build
basin=build/basin
data=runs/demo/data/demo
if [ -n "$text" ]; then
  step "prepare $text" $basin prepare --input "$text" --out $data --vocab-size 1024 --holdout 0.05
else
  step "corpus" bash data/demo_corpus.sh
  step "prepare" $basin prepare --input .deps/corpus/addresses .deps/corpus/plays --out $data --vocab-size 1024 \
    --holdout '1981-Carter*' --holdout '1946-Truman*' --holdout '1907-Roosevelt*'
fi
for sink in none token; do
  dir=runs/demo-${sink/token/sink}
  step "train, sink $sink -> $dir" $basin train configs/demo.yaml --set model.sink.kind=$sink --set run.dir=$dir
  step "stream, sink $sink" $basin evaluate $dir --dataset ${data}_heldout --mode stream,recompute --limit 2000 --save
  step "attention, sink $sink" $basin attention $dir --dataset ${data}_heldout --save
done
step "report" $basin report runs/demo-none runs/demo-sink --out runs/demo/report.html
printf '\ndone in %d s: open runs/demo/report.html\n' $((SECONDS - started)) >&2
