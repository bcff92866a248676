# shellcheck shell=bash disable=SC2034
# What the scripts of this room share; they source it from the project's root. Each step says how long it took.
set -euo pipefail
started=$SECONDS   # for the last line of the script that sources this
basin=build/basin
demo_data=runs/demo/data/demo

step() {
  local name=$1 before=$SECONDS; shift
  printf '\n== %s\n' "$name" >&2
  "$@" || return
  printf -- '-- %s: %d s\n' "$name" $((SECONDS - before)) >&2
}

configure_and_build() {
  local lock status=0
  mkdir -p build
  exec {lock}>build/.lock   # another script beside this builds, too
  flock "$lock"
  cmake -S . -B build -G Ninja >build/configure.log 2>&1 || { cat build/configure.log >&2; return 1; }
  ninja -C build -j "$(nproc)" basin >&2 || status=$?
  exec {lock}>&-
  return $status
}

install_and_build() {
  step "dependencies" bash configs/setup.sh
  step "build" configure_and_build
}

# The demo's corpus as $demo_data: presidential addresses and Shakespeare, three addresses held out.
prepare_demo_corpus() {
  step "corpus" bash data/demo_corpus.sh
  step "prepare" $basin prepare --input .deps/corpus/addresses .deps/corpus/plays --out $demo_data --vocab-size 1024 \
    --holdout '1981-Carter*' --holdout '1946-Truman*' --holdout '1907-Roosevelt*'
}

# newer FILE THAN...: FILE is there and newer than all the others.
newer() {
  local file=$1 other; shift
  for other in "$@"; do [ "$file" -nt "$other" ] || return 1; done
}

# stream MODEL DATASET ARGUMENT...: evaluation and attention into MODEL's run, unless both are there and newer than model and program.
stream() {
  local model=$1 dataset=$2 weights; shift 2
  weights=$model/model.safetensors
  [ -f "$weights" ] || weights=$model/final/model.safetensors
  if newer "$(find "$model/eval" -name 'evaluate-*-C*[0-9].json' ! -name '*-step-*' 2>/dev/null | head -n 1)" "$weights" $basin \
    && newer "$model/eval/attention.json" "$weights" $basin; then
    printf '\n== stream %s: done before\n' "$model" >&2
    return
  fi
  step "stream $model" $basin evaluate "$model" --dataset "$dataset" "$@" --save
  step "attention $model" $basin attention "$model" --dataset "$dataset" --save
}
