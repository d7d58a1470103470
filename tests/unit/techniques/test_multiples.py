"""What targets like widths to be multiples of, and that pruning takes it."""

from __future__ import annotations

import pytest

from autotune.techniques.multiples import Liked, Multiple, Word, liked, words_of
from autotune.techniques.prune import Prune
from hwprofiles.fingerprint import Fingerprint

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorRT"


def target(provider: str = CPU, isa: tuple[str, ...] = (), accelerator: str = "") -> Fingerprint:
    return Fingerprint(
        machine="x", system="Linux", cpu_model="c", isa=isa, cores=1, memory_total=1 << 30, accelerator=accelerator,
        runtime="onnxruntime", runtime_version="1", provider=provider, python="3", numpy="2", threads=1,
    )  # fmt: skip


H200, A100 = (f"NVIDIA {name}, 1 MiB, compute capability {cc}" for name, cc in (("H200", "9.0"), ("A100", "8.0")))


@pytest.mark.parametrize(
    ("there", "words", "multiple", "said"),
    [
        (target(isa=("avx2", "avx512f", "avx512_vnni")), {"float32", "int8"}, 16, "AVX-512: 16"),
        (target(isa=("avx2", "fma")), {"float32"}, 8, "AVX2: 8 float32"),
        (target(isa=("avx2", "fma")), {"float32", "int8"}, 16, "AVX2: 16 int8"),
        (target(isa=("asimd", "asimddp")), {"float32", "int8"}, 16, "NEON: 16 float32"),
        (target(isa=("asimd",)), {"int8"}, 8, "NEON: 8 int8"),
        (target(CUDA, ("avx512f",), H200), {"float32"}, 4, "compute capability 9.0: 4 float32"),
        (target(TENSORRT, ("avx2",), H200), {"float32", "float16"}, 8, "compute capability 9.0: 8 float16"),
        (target(TENSORRT, (), A100), {"float32", "float16", "int8"}, 128, "compute capability 8.0: 128 int8"),
        (target(CPU, ("avx2",), H200), {"float32"}, 8, "AVX2"),  # a card that is not used
        (target("QNNExecutionProvider", ("asimd",)), {"float32"}, 8, "of which nothing is known"),
        (target(), {"int8"}, 8, "of which nothing is known"),
    ],
)
def test_it_is_read_off_the_fingerprint(there: Fingerprint, words: set[Word], multiple: int, said: str) -> None:
    found = liked(there, words)
    assert found.multiple == multiple and said in found.why


def test_formats_are_what_kernels_compute_in() -> None:
    assert words_of(()) == {"float32"}
    assert words_of(("w4-b32", "w8-load", "nf4-b64-load")) == {"float32"}
    assert words_of(("int8-dynamic-o1%", "float16")) == {"float32", "float16", "int8"}


def test_narrow_units_take_less_where_nobody_asked_for_more() -> None:
    auto = Multiple(64, shrinks=True)
    assert [auto.of(width) for width in (1024, 256, 255, 128, 63, 24, 3)] == [64, 64, 32, 32, 8, 8, 8]
    assert [Multiple(64).of(width) for width in (1024, 255, 24)] == [64, 64, 64]
    assert Multiple(4, shrinks=True).of(3) == 4


def test_pruning_takes_what_all_targets_like() -> None:
    prune = Prune()
    assert prune.told() == "" and prune.meaning() == {"route": "graph", "round_to": "8 or less"}
    prune.suit({"pi": Liked(16, "NEON: 16"), "gpu": Liked(8, "a card: 8")})
    assert prune.meaning()["round_to"] == "16 or less"
    assert prune.told().startswith("widths are rounded up to multiples of 16, narrow ones to half of that")
    assert prune.told().endswith("(pi has NEON: 16; gpu has a card: 8)")


def test_what_the_study_says_stays() -> None:
    prune = Prune(round_to=4)
    prune.suit({"pi": Liked(16, "NEON: 16")})
    assert prune.told() == "" and prune.meaning()["round_to"] == "4"
