#!/usr/bin/env bash
# Installs what is missing to build Basin on Debian or Ubuntu: Debian packages, and LibTorch unpacked from its PyPI wheel into .deps/.
# The only list of dependency versions. Idempotent: with everything in place it does nothing, in under a second.
#   bash configs/setup.sh            CPU build and tests
#   bash configs/setup.sh --clients  also what Basin is compared with: PyTorch and others in .deps/clients (5 GB), llama.cpp in .deps/llama.cpp
# Without root it prints the apt line to run and stops with 1.
set -euo pipefail
cd "$(dirname "$0")/.."

apt_packages=(g++ cmake ninja-build ccache python3-pip unzip ca-certificates
  libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libspdlog-dev libfmt-dev libxxhash-dev
  libzstd-dev zlib1g-dev libhwy-dev libsentencepiece-dev sentencepiece libgtest-dev libgmock-dev)

torch_version=2.11.0
torch_root=.deps/torch-$torch_version
# name==version and SHA-256 of the wheel for Python 3.11 (which Python does not matter: only headers and libraries are used)
wheels=(
  "torch==$torch_version 7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a"
  "nvidia-cuda-runtime==13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"
  "nvidia-cuda-cupti==13.0.85 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"
)

# What --clients adds. llama.cpp is the source that llama-cpp-python carries, built for this machine.
clients=(torch==$torch_version transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 sentencepiece==0.2.3 gguf==0.19.0 numpy==2.4.6)
llama_cpp="llama-cpp-python==0.3.36 832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

with_clients=
case "$*" in
  '') ;;
  --clients) with_clients=yes; apt_packages+=(python3-venv) ;;
  *) printf 'setup: error: takes --clients or nothing, got: %s\n' "$*" >&2; exit 2 ;;
esac
started=$SECONDS
say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

install_packages() {
  local missing=() p
  for p in "${apt_packages[@]}"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || fail "needs Debian or Ubuntu (no apt-get here); install: ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    fail "these packages are missing; as root run: apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  local log; log=$(mktemp)
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 \
    || { tail -n 5 "$log" >&2; fail "apt-get failed (no network, or no package mirror?); its last lines are above, the whole log is $log"; }
  rm -f "$log"
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
      --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
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

install_clients() {
  local venv=.deps/clients
  [ "$(cat $venv/.complete 2>/dev/null)" = "${clients[*]}" ] && return 0
  say "installing ${clients[*]} into $venv: some minutes, 5 GB"
  rm -rf $venv
  python3 -m venv $venv
  $venv/bin/python -m pip install --quiet --disable-pip-version-check "${clients[@]}" || fail "pip failed: its message is above"
  printf '%s\n' "${clients[*]}" >$venv/.complete
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
install_packages
install_libtorch
if [ -n "$with_clients" ]; then
  install_clients
  install_llama_cpp
fi
elapsed=$((SECONDS - started))
[ $elapsed -lt 2 ] || say "ready in $elapsed s"
