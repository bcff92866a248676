#!/usr/bin/env bash
# The main job, end to end: dependencies, build, real text, two pretraining runs that differ in the sink token alone, the one-versus-four
# table, runs/demo/report.html. Idempotent: what is still valid is kept, an interrupted run goes on where it stopped.
#   bash train/demo.sh                 the built-in corpus: presidential addresses and Shakespeare
#   bash train/demo.sh --text PATH     your own text (file or folder of .txt/.jsonl, also .gz/.zst); 5 % of its documents are held out; all in runs/demo-text-*
from=$PWD
cd "$(dirname "$0")/.."
. train/steps.sh
usage() { sed -n '4,5s/^# \{0,1\}//p' train/demo.sh; }
fail() { printf 'demo: error: %s\n' "$*" >&2; exit "${2:-2}"; }

text="" place=runs/demo
while [ $# -gt 0 ]; do
  case $1 in
    --text) [ $# -ge 2 ] || fail "--text needs a path"; text=$(cd "$from" && realpath -e -- "$2" 2>/dev/null) || fail "--text $2: no such file or folder"; shift 2 ;;
    -h|--help) usage; exit 0 ;;
    *) usage >&2; fail "unknown argument '$1'" ;;
  esac
done

[ -z "$text" ] || place=runs/demo-text-$(printf '%s' "$text" | cksum | cut -d ' ' -f 1)   # each text has its own
data=$place/data/demo

install_and_build
if [ -n "$text" ]; then
  step "prepare $text" $basin prepare --input "$text" --out "$data" --vocab-size 1024 --holdout 0.05
else
  prepare_demo_corpus
fi
for sink in none token; do
  dir=$place-${sink/token/sink}
  step "train, sink $sink -> $dir" $basin train configs/demo.yaml --set model.sink.kind=$sink --set run.dir="$dir" \
    --set data.train="${data}_train" --set data.heldout="${data}_heldout" || {
    status=$?
    [ $status -ne 2 ] || printf 'demo: to start anew: rm -r %s-none %s-sink\n' "$place" "$place" >&2
    exit $status
  }
  stream "$dir" "${data}_heldout" --mode stream,recompute --limit 2000
done
step "report" $basin report "$place-none" "$place-sink" --out "$place/report.html"
if [ -z "$text" ]; then
  printf '\nThe second table: a pair that was trained twice as long (configs/sink-effect.yaml, seed 1, 12.3 million tokens), from tests/golden\n' >&2
  for name in sink-effect-none sink-effect-sink; do
    mkdir -p runs/demo/trained
    cp -rp tests/golden/$name runs/demo/trained/
    stream runs/demo/trained/$name "${data}_heldout"
  done
  step "report" $basin report runs/demo/trained/sink-effect-none runs/demo/trained/sink-effect-sink --out runs/demo/trained.html
fi
printf '\ndone in %d s: open %s/report.html%s\n' $((SECONDS - started)) "$place" "$([ -n "$text" ] || echo ' and runs/demo/trained.html')" >&2
