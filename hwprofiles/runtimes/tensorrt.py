"""TensorRT and TensorRT-RTX, host side. Neither is imported here: the agent does that, where the card is.

The two are different products with one API: RTX compiles at the first run, times no tactics, and its 8-bit kernels are
others. A number of one is never called a number of the other.

Options of the target that count here, beside those of its transport:

- `builder_level` (0 to 5, TensorRT's default 3): how long the builder searches.
- `tactics` (1 or more): how many kernels it may try for a layer at most.
- `workspace` (bytes): memory that kernels may use beside activations.
- `tf32` (default true): whether float32 may be multiplied as TF32.
- `sparse` (default false): whether 2:4 sparse weights may use the kernels made for them.
- `aux_streams` (0 or more): streams beside the main one that an inference may use.
- `builds` (1 to 20, default 3; RTX: 1): builds of each finalist, of which the fastest is measured and exported.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from hwprofiles.errors import BadProfile
from hwprofiles.runtimes.installing import apart
from hwprofiles.target import Target

_MODULES = (
    "tensorrt_buffers",
    "tensorrt_build",
    "tensorrt_engines",
    "tensorrt_layers",
    "tensorrt_opened",
    "tensorrt_timing",
)
_BUILD_SHARE = 0.9  # of the time-out of a request, so that the builder is ended before whoever waits for it is
_CACHE_BYTES = 4 << 30

# Option -> least and greatest value.
_NUMBERS = {
    "builder_level": (0, 5),
    "tactics": (1, 10_000),
    "workspace": (1 << 20, 1 << 42),
    "aux_streams": (0, 64),
}
_FLAGS = {"tf32": True, "sparse": False}
_OTHERS = ("builds",)
OPTIONS = frozenset({*_NUMBERS, *_FLAGS, *_OTHERS})
_ELSEWHERE = frozenset({"quiet_wait", "quiet_wait_final", "lease_wait", "cache_bytes", "address_limit"})


class TensorRt:
    """`hwprofiles.runtimes.protocol.Runtime` for NVIDIA TensorRT 11.4 or newer."""

    name: ClassVar[str] = "tensorrt"
    provider: ClassVar[str] = "TensorRT"
    builds: ClassVar[int] = 3
    environment: ClassVar[str] = "trt"  # of its own, in the user's home, where install_hint advises one
    packages: ClassVar[str] = "'tensorrt-cu13>=11.4,<12' --extra-index-url https://pypi.nvidia.com"
    origin: ClassVar[str] = "the libraries come from NVIDIA's own package index"

    def backend(self) -> str:
        return _source("tensorrt_backend")

    def modules(self) -> Mapping[str, str]:
        """What travels beside the device side."""
        return {f"hwprofiles.runtimes.{name}": _source(name) for name in _MODULES}

    def options(self, target: Target) -> dict[str, Any]:
        self._refuse_unknown(target)
        builder: dict[str, Any] = {name: _number(target, name, *bounds) for name, bounds in _NUMBERS.items()}
        for name, default in _FLAGS.items():
            value = target.options.get(name, default)
            if not isinstance(value, bool):
                raise BadProfile(f"target {target.name!r}: options.{name} is {value!r}; write true or false")
            builder[name] = value
        return {
            "runtime": self.name,
            "provider": self.provider,
            "builder": builder,
            "builds": _number(target, "builds", 1, 20) or self.builds,
            "build_seconds": _BUILD_SHARE * target.timeout,
            "cache_bytes": _number(target, "cache_bytes", 0, 1 << 50) or _CACHE_BYTES,
            "install": self.install_hint(target),
        }

    def files(self, target: Target) -> dict[str, Path]:
        return {}

    def another_build(self, target: Target) -> Target | None:
        """The same target with engines of another build: from another builder level, so that nothing timed or cached
        for this one is used. None where each build is the same."""
        other = 3 if target.options.get("builder_level", 3) == 2 else 2
        return target.model_copy(update={"options": {**target.options, "builder_level": other}})

    def address_space(self, target: Target) -> int:
        """No limit: CUDA reserves tens of gigabytes of addresses that it never uses."""
        return 0

    def install_hint(self, target: Target) -> str:
        """For a local target without an interpreter of its own: an environment beside ours, and the target on it."""
        packages = f"numpy nvidia-ml-py cuda-bindings {self.packages}"
        return f"{apart(target, self.environment, lambda pip: f'{pip} {packages}')} ({self.origin})"

    def _refuse_unknown(self, target: Target) -> None:
        """Refuse what is no option of ours, or nearly one. Other transports than the local one have their own."""
        known = OPTIONS | _ELSEWHERE
        for name in target.options:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
            if name in known or (target.transport != "local" and not near):
                continue
            advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(OPTIONS))}"
            raise BadProfile(f"target {target.name!r}: runtime {self.name!r} has no option {name!r}; {advice}")


class TensorRtRtx(TensorRt):
    """The same for TensorRT-RTX 1.7.1 or newer, whose libraries PyPI has."""

    name: ClassVar[str] = "tensorrt-rtx"
    provider: ClassVar[str] = "TensorRT-RTX"
    environment: ClassVar[str] = "trt-rtx"
    builds: ClassVar[int] = 1  # it times no kernels when it builds: each build is the same
    packages: ClassVar[str] = "'tensorrt-rtx-cu13-libs>=1.7.1,<2' 'tensorrt-rtx-cu13-bindings>=1.7.1,<2'"
    origin: ClassVar[str] = "from PyPI"

    def another_build(self, target: Target) -> Target | None:
        return None


def _source(name: str) -> str:
    return resources.files("hwprofiles.runtimes").joinpath(f"{name}.py").read_text("utf-8")


def _number(target: Target, name: str, least: int, most: int) -> int | None:
    """A whole number of the target's options; None if it is not there. Raises `BadProfile`."""
    value = target.options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadProfile(
            f"target {target.name!r}: options.{name} is {value!r}; write a whole number from {least} to {most}"
        )
    return value
