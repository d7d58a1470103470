"""Peak memory of a model, measured from a parent that is larger than it (rule B5).

    python benchmarks/memory_peak.py [--runs 3] [--out FILE]

This process holds 400 MiB. A model that takes and frees a known block of memory during each inference must be reported
with it: 200 MiB within 15 MiB. For contrast: what `ru_maxrss` of a child of this process says, which is what many tools
report. Half a minute. Ends with 1 if it is off by more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from subjects import dense, load_average, workplace, write

from hwprofiles.device import Device
from hwprofiles.registry import find_target
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from hwprofiles.scenario import Scenario
from hwprofiles.transports.local import LocalTransport

MIB = 1 << 20
ALLOWED = 15 * MIB  # of error at 200 MiB
SIZES = (50, 200, 350)  # MiB
_CHILD = """
import resource
block = bytearray({size})
del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


class Greedy(OnnxRuntime):
    """Takes and frees a block in each inference, beside what the model needs."""

    def __init__(self, size: int) -> None:
        self.size = size

    def backend(self) -> str:
        return (
            super().backend()
            + f"""
import numpy
_honest = Session.run
def _run(self, feed):
    taken = numpy.ones({self.size}, numpy.uint8)
    del taken
    return _honest(self, feed)
Session.run = _run
"""
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="where the result goes (JSON)")
    arguments = parser.parse_args()
    began, before = time.perf_counter(), load_average()
    ballast = np.ones(400 * MIB, np.uint8)
    scenario = Scenario(
        warmup_seconds=0, warmup_iterations=1, block_seconds=1e-3, block_iterations=1, min_pairs=3, max_pairs=3
    )
    rows, fingerprint = [], None
    with workplace() as folder:
        subject = dense(folder)
        for size in SIZES:
            for _ in range(arguments.runs):
                target = find_target("local")
                target = target.model_copy(update={"options": {**target.options, "quiet_wait": 0.0}})
                with Device(target, LocalTransport(), Greedy(size * MIB), folder) as device:
                    record = device.measure(subject.path, [subject.feed], scenario=scenario)
                    fingerprint = device.fingerprint
                if record.memory is None:
                    raise SystemExit(str(record.failure))
                child = [sys.executable, "-c", _CHILD.format(size=size * MIB)]
                told = int(subprocess.run(child, capture_output=True, text=True, check=True).stdout)
                rows.append({"allocated": size * MIB, "memory": record.memory.model_dump(), "child_ru_maxrss": told})
    assert ballast[-1] == 1
    worst = max(abs(row["memory"]["peak"] - row["allocated"]) for row in rows if row["allocated"] == 200 * MIB)
    write(
        "memory_peak",
        arguments.out,
        began,
        fingerprint,
        protocol=scenario,
        load_average_before=before,
        parent_bytes=ballast.nbytes,
        worst_error_bytes_at_200_mib=worst,
        rows=rows,
    )
    print(f"{'allocated':>10} {'reported':>10} {'at load':>9} {'ru_maxrss of a child':>21}")
    for row in rows:
        memory = row["memory"]
        print(
            f"{row['allocated'] / MIB:6.0f} MiB {memory['peak'] / MIB:6.1f} MiB "
            f"{(memory['load_peak'] - memory['import_only']) / MIB:5.1f} MiB {row['child_ru_maxrss'] / MIB:17.1f} MiB"
        )
    print(
        f"largest error at 200 MiB: {worst / MIB:.1f} MiB ({ALLOWED / MIB:.0f} allowed); "
        f"parent {ballast.nbytes / MIB:.0f} MiB"
    )
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
