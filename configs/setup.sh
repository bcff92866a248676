#!/usr/bin/env bash
# Installs what is missing to build Basin on Debian or Ubuntu: Debian packages, and LibTorch unpacked from its PyPI wheel into .deps/.
# The only list of dependency versions. Idempotent: with everything in place it does nothing, in under a second.
#   bash configs/setup.sh            CPU build and tests
#   bash configs/setup.sh --tests    also what only tests use: Open MPI (7 MB) and clang (260 MB), both left out without root, and TensorBoard in .deps/tests (180 MB)
#   bash configs/setup.sh --cuda     also what a GPU needs at run time (2.7 GB); the driver and, to build the kernels, a CUDA 13 toolkit are yours
#   bash configs/setup.sh --clients  also the software that reads what Basin writes (transformers, lm-eval, llama.cpp, ...) in .deps/clients: 5 GB,
#                                    and in .deps/clients-4 the oldest transformers 4 that works beside its torch: 120 MB
#   bash configs/setup.sh --compare  also llama.cpp built for this machine, in .deps/llama.cpp, to compare speed with
# Without root it prints the apt line to run and stops with 1.
set -euo pipefail
cd "$(dirname "$0")/.."

apt_packages=(g++ cmake ninja-build ccache python3-pip unzip ca-certificates
  libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libspdlog-dev libfmt-dev libxxhash-dev
  libzstd-dev zlib1g-dev libhwy-dev libsentencepiece-dev sentencepiece libonig-dev libutf8proc-dev libgtest-dev libgmock-dev)
test_packages=(openmpi-bin python3-venv clang)   # what --tests adds; clang for the fuzz targets
test_clients=(tensorboard==2.20.0)

torch_version=2.11.0
torch_root=.deps/torch-$torch_version
# name==version and SHA-256 of the wheel for Python 3.11 (which Python does not matter: only headers and libraries are used)
wheels=(
  "torch==$torch_version 7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a"
  "nvidia-cuda-runtime==13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"
  "nvidia-cuda-cupti==13.0.85 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"
)

# What --cuda adds: the libraries that LibTorch's CUDA part loads, the versions that its wheel asks for.
cuda_wheels=(
  "nvidia-cublas==13.1.0.3 ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171"
  "nvidia-cuda-nvrtc==13.0.88 ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575"
  "nvidia-cufft==12.0.0.61 6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3"
  "nvidia-cufile==1.15.1.6 08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44"
  "nvidia-curand==10.4.0.35 1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc"
  "nvidia-cusolver==12.0.4.66 0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112"
  "nvidia-cusparse==12.6.3.3 2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b"
  "nvidia-nvjitlink==13.0.88 13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b"
  "nvidia-nvtx==13.0.85 4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4"
  "nvidia-cudnn-cu13==9.19.0.56 d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf"
  "nvidia-cusparselt-cu13==0.8.0 25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd"
  "nvidia-nccl-cu13==2.28.9 e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42"
  "nvidia-nvshmem-cu13==3.4.5 290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80"
)

# What --clients adds, and --compare: llama.cpp is the source that llama-cpp-python carries, built for this machine.
clients=(torch==$torch_version transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 sentencepiece==0.2.3 gguf==0.19.0 numpy==2.4.6
  accelerate==1.15.0 lm-eval==0.4.13 xllamacpp==2026.10.11549)
# The oldest release that knows Llama, and what it asks for of that time; tokenizers has no wheels of then for Python 3.12 and newer.
clients_4=(transformers==4.28.1 tokenizers==0.13.3 huggingface-hub==0.36.0)
python3 -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && clients_4=(transformers==4.57.6 tokenizers==0.22.2 huggingface-hub==0.36.0)
llama_cpp="llama-cpp-python==0.3.36 832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

with_clients= with_compare= with_cuda= with_tests=
for argument in "$@"; do
  case "$argument" in
    --clients) with_clients=yes; apt_packages+=(python3-venv) ;;
    --compare) with_clients=yes with_compare=yes; apt_packages+=(python3-venv) ;;
    --cuda) with_cuda=yes ;;
    --tests) with_tests=yes ;;
    *) printf 'setup: error: takes --tests, --cuda, --clients, --compare or nothing, got: %s\n' "$argument" >&2; exit 2 ;;
  esac
done
started=$SECONDS
say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# missing_packages PACKAGE...: those that are not installed, in one line
missing_packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  printf '%s' "${missing[*]}"
}

# install_packages PACKAGE...
install_packages() {
  local missing
  read -ra missing <<<"$(missing_packages "$@")"
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || fail "needs Debian or Ubuntu (no apt-get here); install: ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    fail "these packages are missing; as root run: apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  local log; log=$(mktemp)
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"; } >"$log" 2>&1 \
    || { tail -n 5 "$log" >&2; fail "apt-get failed (no network, or no package mirror?); its last lines are above, the whole log is $log"; }
  rm -f "$log"
}

# What some tests are skipped without. libFuzzer and clang's sanitizers are a package of their own in some releases.
install_test_packages() {
  local missing version runtime
  if [ "$(id -u)" -ne 0 ]; then
    missing=$(missing_packages "${test_packages[@]}")
    [ -z "$missing" ] || say "some tests will be skipped without these packages; as root run: apt-get install -y --no-install-recommends $missing"
    return 0
  fi
  install_packages "${test_packages[@]}"
  version=$(clang -dumpversion 2>/dev/null) || return 0
  runtime=libclang-rt-${version%%.*}-dev
  ! apt-cache show "$runtime" >/dev/null 2>&1 || install_packages "$runtime"
}

# Downloads one pinned wheel into .deps/downloads and checks it before anything reads it.
download_wheel() {
  local spec=$1 sha=$2 dir=.deps/downloads
  local name=${spec%%==*} version=${spec##*==} file
  mkdir -p "$dir"
  file=$(ls "$dir/${name//-/_}-$version"-*.whl 2>/dev/null | head -n 1 || true)
  if [ -z "$file" ]; then
    say "downloading $spec"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 --abi none \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
      -d "$dir" "$spec" >"$dir/pip.log" 2>&1 || fail "could not download $spec from the Python package index ($(tail -n 1 "$dir/pip.log")): check the network, then run this again"
    file=$(ls "$dir/${name//-/_}-$version"-*.whl | head -n 1)
  fi
  if ! echo "$sha  $file" | sha256sum --check --status; then
    rm -f "$file"
    fail "$file is not the pinned file (SHA-256 differs) and was removed: run this again"
  fi
  printf '%s\n' "$file"
}

install_libtorch() {
  [ -f "$torch_root/.complete" ] && return 0
  local entry file
  staging=$torch_root.tmp.$$   # not local: the trap outlives this function
  rm -rf "$torch_root".tmp.*
  mkdir -p "$staging"
  trap 'rm -rf "$staging"' EXIT
  for entry in "${wheels[@]}"; do
    file=$(download_wheel ${entry% *} ${entry#* })
    case $file in
      */torch-*) unzip -q "$file" 'torch/include/*' 'torch/lib/*' 'torch/share/*' -d "$staging" ;;
      *) unzip -q "$file" 'nvidia/*' -d "$staging" ;;
    esac
  done
  touch "$staging/.complete"
  rm -rf "$torch_root"
  mv "$staging" "$torch_root"
  trap - EXIT
  rm -rf .deps/downloads
}

install_cuda() {
  [ "$(cat "$torch_root/.cuda" 2>/dev/null)" = "${cuda_wheels[*]}" ] && return 0
  local entry file
  for entry in "${cuda_wheels[@]}"; do
    file=$(download_wheel ${entry% *} ${entry#* })
    unzip -qo "$file" 'nvidia/*' -d "$torch_root"
    rm -f "$file"
  done
  printf '%s\n' "${cuda_wheels[*]}" >"$torch_root/.cuda"
  rm -rf .deps/downloads
}

# install_venv FOLDER SIZE PACKAGE...
install_venv() {
  local venv=$1 size=$2; shift 2
  [ "$(cat "$venv/.complete" 2>/dev/null)" = "$*" ] && return 0
  say "installing $* into $venv: $size"
  rm -rf "$venv"
  python3 -m venv "$venv" || fail "python3 -m venv failed; as root run: apt-get install -y --no-install-recommends python3-venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || fail "pip failed: its message is above"
  printf '%s\n' "$*" >"$venv/.complete"
}

# Its own packages, and behind them in the path all of .deps/clients: torch is there once.
install_clients_4() {
  local venv=.deps/clients-4 print_folder='import sysconfig; print(sysconfig.get_path("purelib"))'
  [ "$(cat "$venv/.complete" 2>/dev/null)" = "${clients_4[*]}" ] && return 0
  say "installing ${clients_4[*]} into $venv: 120 MB"
  rm -rf "$venv"
  python3 -m venv "$venv" || fail "python3 -m venv failed; as root run: apt-get install -y --no-install-recommends python3-venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: "${clients_4[@]}" || fail "pip failed: its message is above"
  .deps/clients/bin/python -c "$print_folder" >"$("$venv/bin/python" -c "$print_folder")/clients.pth"
  printf '%s\n' "${clients_4[*]}" >"$venv/.complete"
}

install_llama_cpp() {
  local spec=${llama_cpp% *} sha=${llama_cpp#* } tree=.deps/llama.cpp file
  [ "$(cat $tree/.complete 2>/dev/null)" = "$spec" ] && return 0
  say "building llama.cpp from $spec: ten minutes on two cores"
  rm -rf $tree .deps/downloads
  mkdir -p $tree .deps/downloads
  .deps/clients/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python -d .deps/downloads "$spec" \
    || fail "could not download $spec: pip's message is above"
  file=$(ls .deps/downloads/llama_cpp_python-*.tar.gz)
  echo "$sha  $file" | sha256sum --check --status || fail "$file is not the pinned file (SHA-256 differs)"
  tar xzf "$file" -C $tree --strip-components 3 --wildcards '*/vendor/llama.cpp/*'
  cmake -S $tree -B $tree/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_COMMON=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >$tree/build.log 2>&1 \
    && ninja -C $tree/build -j 2 llama >>$tree/build.log 2>&1 || { tail -n 5 $tree/build.log >&2; fail "llama.cpp did not build: the whole log is $tree/build.log"; }
  rm -rf .deps/downloads
  printf '%s\n' "$spec" >$tree/.complete
}

[ "$(uname -m)" = x86_64 ] || fail "LibTorch is pinned for x86_64; this machine is $(uname -m)"
if mkdir -p .deps 2>/dev/null && { exec {lock}>.deps/.lock; } 2>/dev/null; then   # the tests' and the demo's set-up may meet here
  flock -n "$lock" || { say "waiting for another one of these"; flock "$lock"; }
fi
install_packages "${apt_packages[@]}"
cmake_version=$(cmake --version | sed -n '1s/.* //p')
printf '3.25\n%s\n' "$cmake_version" | sort -CV || fail "needs CMake 3.25 or newer, as Debian 12 and Ubuntu 24.04 have it; this is $cmake_version"
install_libtorch
[ -z "$with_cuda" ] || install_cuda
[ -z "$with_tests" ] || install_test_packages
[ -z "$with_tests" ] || install_venv .deps/tests '180 MB' "${test_clients[@]}"
[ -z "$with_clients" ] || install_venv .deps/clients 'some minutes, 5 GB' "${clients[@]}"
[ -z "$with_clients" ] || install_clients_4
[ -z "$with_compare" ] || install_llama_cpp
elapsed=$((SECONDS - started))
[ $elapsed -lt 2 ] || say "ready in $elapsed s"
