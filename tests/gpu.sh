#!/usr/bin/env bash
# Everything that needs a GPU, one after another, about 8 minutes on an H100: the tests, training against torch.compile, streaming
# evaluation of 4 M tokens, decoding against the bandwidth. Tables on stdout, JSON in runs/gpu/.
#   bash tests/gpu.sh             builds (needs a CUDA 13 toolkit), installs PyTorch into .deps/clients, runs
#   bash tests/gpu.sh pack DIR    builds, and copies what running takes into DIR (about 15 MB), for a machine without compiler and packages
#   bash tests/gpu.sh run DIR     there, in the same checkout: needs python3 with torch 2.11 (CUDA 13), numpy and safetensors; for the comparison,
#                                 torch.compile needs a C compiler and Python.h
# With DATA=PREFIX of what `basin prepare --vocab-size 32000` made, also: llama-60m on it for a minute (SECONDS_OF_TRAINING=60), stopped, and
# resumed. ONLY=REGEX picks steps by their names: ONLY='kernels|decode'.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { printf 'gpu: error: %s\n' "$*" >&2; exit 2; }

build() {
  bash configs/setup.sh --cuda
  cmake -S . -B build -G Ninja -DBASIN_CUDA=ON >/dev/null
  ninja -C build -j "${JOBS:-2}" --quiet basin basin_cuda basin_nccl basin_gpu_tests basin_gpu_kernels_tests
}

programs="basin libbasin_cuda.so libbasin_nccl.so basin_gpu_tests basin_gpu_kernels_tests"
pack() {
  local to=$1 program library
  mkdir -p "$to"
  for program in $programs; do
    strip -o "$to/$program" "build/$program"
    # Debian's libraries travel; LibTorch, CUDA and the C library are the other machine's.
    ldd "build/$program" | awk '$3 ~ "^/" && $3 !~ "/(torch|nvidia|cuda[^/]*)/|/lib(c|m|dl|rt|pthread|util|gcc_s|stdc[+][+]|gomp)[.]so" { print $3 }' | while read -r library; do
      cp -Lu "$library" "$to/"
    done
  done
}

# The steps go on after one that failed: a GPU's time is dear, and the rest is wanted as well.
failed= ran=
step() {
  local name=$1; shift
  [[ $name =~ ${ONLY:-.} ]] || return 0
  ran=yes
  printf '\n== %s\n' "$name"
  local status=0
  "$@" || status=$?
  [ $status -eq 0 ] || { failed="$failed, $name"; printf 'gpu: %s failed with %s\n' "$name" $status >&2; }
}

# A test that is skipped here has not found the GPU.
models() {
  "$@" | tee "$out/models.log" || return
  ! grep -F '[  SKIPPED ]' "$out/models.log" >&2
}

# Trains, is stopped by the clock, goes on from its checkpoint for a quarter of the time.
llama_60m() {
  local run=$1/llama-60m limit=${SECONDS_OF_TRAINING:-60} status part
  rm -rf "$run"
  for part in "$limit" "$((limit / 4))"; do
    status=0
    RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29511 "$BASIN" train configs/llama-60m.yaml --set data.train="${DATA}_train" \
      --set data.heldout="${DATA}_heldout" --set run.dir="$run" --set train.device=cuda --set train.distributed.backend=nccl \
      --set train.distributed.shard_optimizer=true --set train.global_batch=128 --set train.micro_batch=32 --set train.checkpoint.every=50 --set train.log_every=10 \
      --set train.validation.every=100 --set train.validation.tokens=131072 --set train.stop_after="${part}s" 2>&1 | tee "$run.log" || status=$?
    [ $status -eq 3 ] || return 1   # stopped on request, resumable
  done
  grep -q "resuming from $run/step-" "$run.log" || { printf 'gpu: the second part did not go on from the first\n' >&2; return 1; }
  rm -rf "$run"/step-*
}

run() {
  local programs=$1 python=$2 out=${OUT:-runs/gpu}
  mkdir -p "$out"
  export BASIN="$programs/basin" BASIN_PROGRAM="$programs/basin" OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || fail "no NVIDIA GPU here (nvidia-smi does not answer)"
  local bench="set -o pipefail; $BASIN bench" pythia="configs/pythia-160m.yaml --device cuda --dtype bfloat16"
  step "kernels" "$programs/basin_gpu_kernels_tests" --gtest_brief=1
  step "models" models "$programs/basin_gpu_tests"
  step "decode" bash -c "$bench decode $pythia --cache 1024 --tokens 512 --json | tee $out/decode.json"
  step "decode, 8 streams" bash -c "$bench decode $pythia --cache 1024 --tokens 512 --streams 8 --no-peaks --json | tee $out/decode-8.json"
  step "stream" bash -c "$bench stream $pythia --cache 1024 --tokens 4194304 --repetitions 2 --warmup 1 --json | tee $out/stream.json"
  step "prefill" bash -c "$bench prefill $pythia --cache 4096 --tokens 4096 --json | tee $out/prefill.json"
  step "training, one model" bash -c "$bench train configs/pythia-160m.yaml --set train.device=cuda --set train.global_batch=64 --set train.micro_batch=16 --set train.precision=bf16 --json | tee $out/train.json"
  step "checkpoints" bash -c "$bench checkpoint configs/llama-60m.yaml --set model.vocab_size=32000 --set train.device=cuda --set train.global_batch=16 --set train.micro_batch=16 --json | tee $out/checkpoint.json"
  if [ -n "${DATA:-}" ]; then
    step "llama-60m, stopped and resumed" llama_60m "$out"
  else
    printf '\n== llama-60m left out: DATA names no prepared text\n'
  fi
  step "training against torch.compile" "$python" tests/bench/compare.py --out "$out" train-gpu-neox train-gpu-llama
  [ -n "$ran" ] || fail "ONLY='$ONLY' matches no step"
  [ -z "$failed" ] || { printf 'gpu: failed%s\n' "$failed" >&2; exit 1; }
}

case "${1:-}" in
  -h|--help) sed -n '2,9s/^# \{0,1\}//p' tests/gpu.sh ;;
  '') bash configs/setup.sh --clients; build; run "$PWD/build" .deps/clients/bin/python ;;
  pack) [ $# -eq 2 ] || fail "pack takes a directory"; build; pack "$2" ;;
  run)
    [ -x "${2:-}/basin" ] || fail "run takes a directory that 'tests/gpu.sh pack' has filled"
    libraries=$(python3 -c 'import pathlib, torch; at = pathlib.Path(torch.__file__).parent; print(":".join(map(str, [at / "lib", *at.parent.glob("nvidia/*/lib")])))') \
      || fail "python3 has no torch here"
    export LD_LIBRARY_PATH="$(realpath "$2"):$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    run "$(realpath "$2")" python3 ;;
  *) fail "unknown argument '$1': see --help" ;;
esac
