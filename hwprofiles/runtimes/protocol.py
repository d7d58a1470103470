"""The contract of a runtime: what it needs on the device, and the source of its device side.

A third party registers a class under the entry point group `hwprofiles.runtimes`; it is made without
arguments, and passes `hwprofiles.runtimes.conformance`.

The device side is one Python module that travels inside the agent; Python 3.9 unless `install_hint` asks for a newer
one. Of ours it may import what travels too: `hwprofiles.agent`, and what the host side's `modules() -> dict` (optional:
source by dotted name) names. It must define

- `describe(options) -> dict` with `runtime`, `version` and `providers` (names that a model may ask for there). It may
  tell more: `compiled` (providers that the sources know), `build`, `accelerator`, and under which conditions its
  sessions run: `arena` (the allocator: "default", "off"), `memory_pattern`, `cuda_graph`, `transfers` (whether copies
  to and from an accelerator are part of the time; None: there are none),
- `Session(path, options)` with `inputs` and `outputs` (lists of `{"name", "type", "shape"}`) and
  `run(feed) -> list` of arrays in the order of `outputs`,
- `kernels(path, options, feed, runs, scratch) -> list` of dicts like `hwprofiles.measurement.Kernel`,
- `ERRORS`, a tuple of the exception types that are an answer about the model and not a bug,
- `classify(error, stage) -> kind` of Failure, `explain(error) -> str`, one line for a person.

The agent adds to the `options` of the host side `scratch`, a folder for temporary files, and for sessions `shapes`, a
list of input -> dimensions that the model will be asked with (may be empty). An error whose attribute `advised` is true
says what to do: nothing is added about installing.

It may define `check(options)`, which raises one of ERRORS unless the provider really runs a model there; if its host
side names files, `attach(files, scratch)`, which gets name -> path on the device before anything else is asked; and, if
it builds something from a model, `prepare(path, options, count, feeds)`, which builds `count` times and keeps the best
for the sessions to come. That is asked before a final measurement if `describe` tells `builds`, more than one.

A runtime that works in processes of its own may give its Session more, which is then used in place of `run`:
`run_all(feeds) -> list` of lists of arrays; `time_block(feeds, count) -> dict` with `wall` (seconds of each), `cpu`,
`thread_cpu`, `load` and `first` (seconds); `memory(feed, iterations) -> dict` with `import_only`, `load_peak`,
`run_peak` (bytes) and `cold` (seconds); and the attribute `load_seconds`. Energy is not measured for such a runtime.

A runtime of an accelerator has such a Session too. Its `time_block` times the card's computation in `wall` (CUDA events
where it can, and `describe` says so as `timer`: "cuda-events" or "host"), and gives `enqueue` (host seconds of asking
for one with nothing before it in the card's queue) and `end_to_end` (seconds) of a few inferences beside it, empty or
None where it cannot tell, and `inferences`, if it did not do just `count` of them. `wall` may then have fewer samples.
It does not warm up by itself: that is done by blocks until they are steady.
What makes a Session one of an accelerator is

- `accelerator_memory(feed) -> dict` with `plan`, `weights`, `activations` (bytes or None). It may further have
- `builds() -> list` of dicts like `hwprofiles.measurement.Build`, the first the one that is open,
- `engine() -> bytes`, what it really runs, for export,
- the attributes `conditions` (of those that `describe` tells, what holds for this model) and `notes` (list of str).

Its `describe` names the card as the driver does (`card`: a dict like `hwprofiles.agent.nvml.identity` gives). The agent
reads the card's clocks, temperature, reasons for lower clocks, energy and processes itself, by `hwprofiles.agent.nvml`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hwprofiles.target import Target

CONDITIONS = ("arena", "memory_pattern", "cuda_graph", "transfers")  # what `describe` tells about its sessions


class Runtime(Protocol):
    """Host side of a runtime. Must not import the runtime itself: it need not be installed here."""

    def backend(self) -> str:
        """Source text of the device side."""

    def options(self, target: Target) -> dict[str, Any]:
        """What the device side needs to open a model for this target (JSON values). Raises `BadProfile`."""

    def files(self, target: Target) -> Mapping[str, Path]:
        """Files of this machine that the device side needs there, by a plain name. Raises `BadProfile`."""

    def address_space(self, target: Target) -> int:
        """Limit of the measured process's address space, bytes; 0 where the runtime cannot have one."""

    def install_hint(self, target: Target) -> str:
        """What installs the runtime for the target's interpreter: a command, or a sentence with one."""


def builds_engines(runtime: Runtime) -> bool:
    """Whether it builds an engine from a model, and can say `another_build(target) -> Target | None` of it: the target
    with engines of another build. A runtime that runs models as they are has no such method."""
    return hasattr(runtime, "another_build")


def shipped(runtime: Runtime) -> Mapping[str, str]:
    """Sources that travel beside the device side, by dotted name; a runtime need not have any."""
    modules = getattr(runtime, "modules", None)
    return {} if modules is None else dict(modules())


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """sha256 of each file. Raises `OSError`."""
    found = {}
    for name, path in files.items():
        with path.open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
