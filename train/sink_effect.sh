#!/usr/bin/env bash
# What a learnable sink token does to a model that needs it, on the demo's text: for every seed a sink and a vanilla model of
# configs/sink-effect.yaml, streamed with 0, 1, 2 and 4 initial tokens kept, at the end and at steps on the way. Idempotent, like the demo.
#   bash train/sink_effect.sh              seeds 1 2 3 -> runs/sink-effect/{none,sink}-SEED and runs/sink-effect/report.html
#   bash train/sink_effect.sh 4 5          other seeds
# Two seeds side by side on two cores: BASIN_THREADS=1 bash train/sink_effect.sh 1 & BASIN_THREADS=1 bash train/sink_effect.sh 2
cd "$(dirname "$0")/.."
. train/steps.sh
case "${1:-}" in -h|--help) sed -n '4,6s/^# \{0,1\}//p' train/sink_effect.sh; exit 0 ;; esac
seeds=("$@")
[ $# -gt 0 ] || seeds=(1 2 3)
for seed in "${seeds[@]}"; do
  [[ $seed =~ ^[0-9]+$ ]] || { printf 'sink_effect: error: %s is no seed (a whole number): see --help\n' "$seed" >&2; exit 2; }
done

mkdir -p runs/sink-effect
exec {lock}>runs/sink-effect/.lock   # another one beside this may be building or preparing
flock "$lock"
install_and_build
prepare_demo_corpus
flock -u "$lock"
for seed in "${seeds[@]}"; do
  for sink in none token; do
    dir=runs/sink-effect/${sink/token/sink}-$seed
    step "train, sink $sink, seed $seed -> $dir" $basin train configs/sink-effect.yaml \
      --set model.sink.kind=$sink --set train.seed="$seed" --set run.dir="$dir"
    for model in "$dir"/step-*; do   # the newest comes below, with all rows
      [ "$(basename "$model")" != "$(readlink "$dir/final")" ] || continue
      newer "$dir/eval/evaluate-demo_heldout-C127-$(basename "$model").json" "$model/model.safetensors" \
        || step "stream $model" $basin evaluate "$model" --dataset ${demo_data}_heldout --sinks 0,1,4 --save
    done
    stream "$dir" ${demo_data}_heldout
  done
done
runs=()   # of all seeds so far that are finished
for final in runs/sink-effect/none-*/final runs/sink-effect/sink-*/final; do
  [ ! -e "$final" ] || runs+=("$(dirname "$final")")
done
step "report" $basin report "${runs[@]}" --out runs/sink-effect/report.html --svg runs/sink-effect
printf '\ndone in %d s: open runs/sink-effect/report.html\n' $((SECONDS - started)) >&2
