#!/bin/sh
# Everything that needs an NVIDIA card: the tests marked `gpu` and the benchmarks, into one JSON. --help says how.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/run.py" "$@"
