#!/bin/sh
# Everything that needs an NVIDIA card: the tests marked `gpu` and the benchmarks, into one JSON.
#
#     benchmarks/gpu/run.sh WHEELS [RESULT.json] [--steps tests,protocol,study,tensorrt,comparison] [--quick]
#
# WHEELS is a folder with wheels of what is to be installed (pip download); nothing is fetched from elsewhere. The
# environments are made in a folder that is gone afterwards, on top of what PYTHON (default: python3; 3.11 or later) has
# installed, such as torch. What cannot be installed, or does not run, is written down as not run with its reason.
# RESULT defaults to benchmarks/gpu/results/CARD.json where there is a card, and else to the standard output.
set -eu
if [ $# -lt 1 ] || [ ! -d "$1" ]; then
    sed -n '2,9p' "$0" | cut -c3-
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/run.py" "$@"
