"""What the kernel tells of this process and of the clock of its CPU. Runs on the device; Python 3.9, stdlib only.

What a machine does not tell is None, never an error.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_CGROUP_PEAKS = ("memory.peak", "memory.max_usage_in_bytes")  # of versions 2 and 1


def clock() -> float | None:
    """Hertz of the CPU on which this thread ran last. None where nobody tells.

    Of no other CPU: some kernels take 10 ms to answer for one, and a large server has hundreds.
    """
    try:
        number = int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[36])
        text = Path(f"/sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq").read_text()
        return int(text) * 1e3
    except (OSError, ValueError, IndexError):
        return None


def age() -> float | None:
    """Seconds since the program that watches over this process was started; to 10 ms. None outside of Linux."""
    try:
        text = Path(f"/proc/{os.getppid()}/stat").read_text()
        started = int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    # Anything else is the father of all processes, after ours has died, or an emulator's invention.
    return seconds if 0 <= seconds < 3600 else None


def cgroup_peak() -> int | None:
    """Bytes: the most that the control group of this process ever held. None where there is none of its own."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if path.strip("/") and (number == "0" or "memory" in names.split(",")):
            folder = Path("/sys/fs/cgroup") / ("" if number == "0" else "memory") / path.strip("/")
            for name in _CGROUP_PEAKS:
                try:
                    return int((folder / name).read_text())
                except (OSError, ValueError):
                    continue
    return None
