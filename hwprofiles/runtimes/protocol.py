"""The contract of a runtime: what it needs on the device, and the source of its device side.

A third party registers a class under the entry point group `hwprofiles.runtimes`; it is made without
arguments.

The device side is one Python module (3.9, no import of ours) that travels inside the agent. It must define

- `describe() -> dict` with `runtime`, `version` and `providers` (list of names),
- `Session(path, options)` with `inputs` and `outputs` (lists of `{"name", "type", "shape"}`) and
  `run(feed) -> list` of arrays in the order of `outputs`,
- `kernels(path, options, feed, runs, scratch) -> list` of dicts like `hwprofiles.measurement.Kernel`,
- `ERRORS`, a tuple of the exception types that are an answer about the model and not a bug,
- `classify(error, stage) -> kind` of Failure, `explain(error) -> str`, one line for a person.
"""

from __future__ import annotations

from typing import Any, Protocol

from hwprofiles.target import Target


class Runtime(Protocol):
    """Host side of a runtime. Must not import the runtime itself: it need not be installed here."""

    def backend(self) -> str:
        """Source text of the device side."""

    def options(self, target: Target) -> dict[str, Any]:
        """What the device side needs to open a model for this target (JSON values). Raises `BadProfile`."""

    def address_space(self, target: Target) -> int:
        """Limit of the measured process's address space, bytes; 0 where the runtime cannot have one."""

    def install_hint(self, target: Target) -> str:
        """The command that installs the runtime for the target's interpreter."""
