#!/usr/bin/env bash
# Installs what is missing to build Basin on Debian or Ubuntu: Debian packages, and LibTorch unpacked from its PyPI wheel into .deps/.
# The only list of dependency versions. Idempotent: with everything in place it does nothing, in under a second.
#   bash configs/setup.sh           CPU build and tests
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

[ $# -eq 0 ] || { printf 'setup: error: takes no arguments, got: %s\n' "$*" >&2; exit 2; }
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

[ "$(uname -m)" = x86_64 ] || fail "LibTorch is pinned for x86_64; this machine is $(uname -m)"
install_packages
install_libtorch
elapsed=$((SECONDS - started))
[ $elapsed -lt 2 ] || say "ready in $elapsed s"
