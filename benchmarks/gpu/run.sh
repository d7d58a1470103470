#!/bin/sh
# Everything that needs an NVIDIA card: the tests marked `gpu` and the benchmarks, into one JSON.
#
#     benchmarks/gpu/run.sh WHEELS [RESULT.json] [--steps protocol,study,tests,tensorrt,comparison] [--seconds 540]
#                           [--keep FOLDER] [--continue] [--quick] [--trial]
#     benchmarks/gpu/run.sh WHEELS --wheels-needed [--for 3.12]
#
# WHEELS is a folder with wheels of what is to be installed, or pieces of them (NAME.whl.part-000 and so on, with
# NAME.whl.sha256: see pieces.py); --wheels-needed prints the commands that fill it, on a
# machine with a network. Nothing is fetched here. The environments stand on what PYTHON (default: python3; 3.11 or later)
# has installed, such as torch, and are gone afterwards unless --keep names a folder. What cannot be installed, or does
# not run, is written down as not run with its reason. RESULT is written after each step and defaults to
# benchmarks/gpu/results/CARD.json (without a card: the standard output). A call with other --steps adds to it; protocol
# goes on where the last call of the same commit was cut short by --seconds, the studies do with the same --keep.
# HW_AUTOTUNE_COMMIT names the commit where there is no repository.
set -eu
if [ $# -lt 1 ]; then
    sed -n '2,16p' "$0" | cut -c3-
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/run.py" "$@"
