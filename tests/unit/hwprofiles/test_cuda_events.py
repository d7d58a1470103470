"""The calls to CUDA's runtime library, against a library with the same functions that is built here."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from hwprofiles.agent.cuda_events import CardBroken, Clock, is_full, open_clock, refuse_broken

# As in cuda_runtime_api.h; an event keeps the number of its record, and a millisecond lies between two of them.
LIBRARY = r"""
#include <stdlib.h>
static float now = 0;
int streams = 0, events = 0;
int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
    *stream = (void *)0x7f0012345678;
    streams++;
    return flags;
}
int cudaStreamDestroy(void *stream) { return stream == (void *)0x7f0012345678 ? (streams--, 0) : 400; }
int cudaEventCreateWithFlags(void **event, unsigned flags) {
    *event = calloc(1, sizeof(float));
    events++;
    return flags;
}
int cudaEventDestroy(void *event) { free(event); events--; return 0; }
int cudaEventRecord(void *event, void *stream) {
    if (stream != (void *)0x7f0012345678) return 400;
    *(float *)event = ++now;
    return 0;
}
int cudaEventSynchronize(void *event) { return *(float *)event == 0 ? 600 : 0; }
int cudaEventElapsedTime(float *ms, void *start, void *end) { *ms = *(float *)end - *(float *)start; return 0; }
const char *cudaGetErrorString(int code) { return code == 600 ? "device not ready" : "invalid resource handle"; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "cudart.c").write_text(LIBRARY)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libcudart.so", folder / "cudart.c"], check=True, timeout=60
    )
    return ctypes.CDLL(str(folder / "libcudart.so"))


def test_time_between_two_events(library: ctypes.CDLL) -> None:
    clock = Clock(library)
    assert clock.stream == 0x7F0012345678, "a pointer of 64 bits, as others want it"
    clock.reserve(4)
    for number in range(4):
        clock.stamp(number)
        clock.wait(number)
    assert clock.seconds([(0, 1), (1, 3)]) == pytest.approx([1e-3, 2e-3])
    assert clock.seconds([(2, 2)]) == [5e-7], "less than a step of its clock is one step"


def test_a_closed_clock_gives_everything_back(library: ctypes.CDLL) -> None:
    streams, events = (ctypes.c_int.in_dll(library, name) for name in ("streams", "events"))
    before = (streams.value, events.value)
    clock = Clock(library)
    clock.reserve(3)
    assert (streams.value, events.value) == (before[0] + 1, before[1] + 3)
    clock.close()
    assert (streams.value, events.value) == before


def test_cudas_words_are_kept(library: ctypes.CDLL) -> None:
    clock = Clock(library)
    clock.reserve(1)
    with pytest.raises(RuntimeError, match="CUDA failure 600: device not ready"):
        clock.wait(0)


def test_no_library_no_clock() -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a card")
    assert open_clock() is None


@pytest.mark.parametrize(
    ("said", "full", "broken"),
    [
        ("Failed to allocate memory for requested buffer of size 4294967296", True, False),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", True, False),
        ("CUDA failure 2: out of memory ; GPU=0", True, False),
        ("Error Code 2: OutOfMemory (Requested size was 268435456 bytes.)", True, False),
        ("CUDA failure 700: an illegal memory access was encountered", False, True),
        ("CUDA error: uncorrectable ECC error encountered", False, True),
        ("Got invalid dimensions for input: x", False, False),
    ],
)
def test_errors_of_the_card(said: str, full: bool, broken: bool) -> None:
    assert is_full(said) is full
    if broken:
        with pytest.raises(CardBroken, match="context is lost"):
            refuse_broken(RuntimeError(said))
    else:
        refuse_broken(RuntimeError(said))
