#!/usr/bin/env bash
# run.sh SCRIPT ARGUMENT...: one of the client tests with the Python that has the clients; 77 (skipped) where that is not installed.
here=$(cd "$(dirname "$0")" && pwd)
clients=$here/../../.deps/clients
if [ ! -f "$clients/.complete" ]; then
  echo "skipped: no transformers in .deps/clients: 'bash configs/setup.sh --clients' installs it"
  exit 77
fi
script=$1; shift
export no_proxy=127.0.0.1,localhost${no_proxy:+,$no_proxy}   # where llama.cpp's server is asked
export OMP_NUM_THREADS=1 PYTHONUTF8=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error PYTHONDONTWRITEBYTECODE=1
exec "$clients/bin/python" "$here/$script" "$@"
