#!/usr/bin/env bash
# Runs fuzz targets that are built, from their seeds (seeds.py) and from what earlier runs found (BUILD_FOLDER/corpus) on. The input of a
# finding is kept in BUILD_FOLDER/findings.
#   run.sh BUILD_FOLDER (--seconds S | --runs N) TARGET...
#   run.sh BUILD_FOLDER --keep 0 TARGET...    makes corpus/TARGET.xz of what was found so far
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$1 how=$2 amount=$3
shift 3
case "$how" in
  --seconds) limit=(-max_total_time="$amount") ;;
  --runs) limit=(-runs="$amount") ;;
  --keep) limit=(-merge=1) ;;
  *) printf "fuzz: error: expected --seconds, --runs or --keep, got '%s'\n" "$how" >&2; exit 2 ;;
esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$build/findings" "$scratch/merged"
for target in "$@"; do
  corpus=$build/corpus/$target seeds=$scratch/$target
  mkdir -p "$corpus"
  python3 "$here/seeds.py" "$seeds" "$target"
  folders=("$corpus" "$seeds")   # new inputs go into the first
  [ "$how" != --keep ] || folders=("$scratch/merged" "${folders[@]}")
  if ! "$build/${target}_fuzz" "${limit[@]}" -seed=1 -timeout=10 -rss_limit_mb=2048 -max_len=8192 -artifact_prefix="$build/findings/$target-" \
      "${folders[@]}" >"$scratch/log" 2>&1; then
    tail -n 40 "$scratch/log"
    printf 'fuzz: error: %s: a finding, its input is in %s\n' "$target" "$build/findings"
    exit 1
  fi
  if [ "$how" = --keep ]; then
    python3 "$here/seeds.py" --pack "$scratch/merged" "$target"
    rm -f "$scratch"/merged/*
  else
    printf '%s: %s\n' "$target" "$(grep -E '^Done ' "$scratch/log")"
  fi
done
