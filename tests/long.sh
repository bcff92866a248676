#!/usr/bin/env bash
# The long versions of what the suite runs short, for a quiet machine: three-way streaming agreement over 20 000 tokens, the time of
# a streaming step after a million tokens against one with a just-filled cache, and training with the sink against training without.
#   bash tests/long.sh                      all three, about 8 minutes on two cores
#   bash tests/long.sh agreement|steps|sink-speed
#   bash tests/long.sh compare [CASE...]    speed against PyTorch, transformers, llama.cpp and SentencePiece (installs them: 5 GB)
cd "$(dirname "$0")/.."
set -euo pipefail
case "${1:-all}" in
  -h|--help) sed -n '2,6s/^# \{0,1\}//p' tests/long.sh; exit 0 ;;
  all|agreement|steps|sink-speed|compare) wanted=${1:-all} ;;
  *) printf "long: error: unknown argument '%s': see --help\n" "$1" >&2; exit 2 ;;
esac
wants() { [ "$wanted" = all ] || [ "$wanted" = "$1" ]; }

if [ "$wanted" = compare ]; then
  bash configs/setup.sh --clients
  cmake -S . -B build -G Ninja >/dev/null
  ninja -C build -j 2 --quiet basin
  shift
  exec .deps/clients/bin/python tests/bench/compare.py "$@"
fi
bash configs/setup.sh
cmake -S . -B build -G Ninja >/dev/null
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
  printf '\n== training speed at T 256, 200 steps each, in turn: the sink run against the vanilla run\n'
  [ -f runs/demo/data/demo.json ] || { printf 'long: error: no runs/demo/data/demo.json: run train/demo.sh first\n' >&2; exit 1; }
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  for round in 1 2 3 4 5; do
    for sink in none token; do
      build/basin train configs/demo.yaml --set model.sink.kind=$sink --set run.dir="$scratch/$round-$sink" --set data.sequence_length=256 \
        --set train.global_batch=16 --set train.steps=200 --set train.validation.every=0 --set train.sink_metric_every=0 \
        --set train.checkpoint.every=0 --set train.log_every=100 >/dev/null 2>&1
      printf '%s %s\n' $sink "$(tail -n 1 "$scratch/$round-$sink/metrics.jsonl" | sed 's/.*"tokens_per_second": *\([0-9.]*\).*/\1/')"
    done
  done | tee "$scratch/speeds" | awk '{ printf "%s %.0f tokens/s\n", $1, $2 }'
  median() { grep "^$1 " "$scratch/speeds" | cut -d ' ' -f 2 | sort -n | sed -n 3p; }
  awk -v none="$(median none)" -v token="$(median token)" 'BEGIN { printf "medians: vanilla %.0f, sink %.0f tokens/s, ratio %.3f\n", none, token, token / none }'
fi
