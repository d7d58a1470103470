"""A native runner: a program of the user's own that opens and runs models, host side.

`docs/runner.md` has its contract, `reference_runner.py` next to this file is one. The program is sent to the device
like a model, under its digest, and started there for every question. Options of the target that count here:

- `runner`: the program's file on this machine. One whose name ends in `.py` is run by the target's own interpreter.
- `runner_files`: files that it needs beside it, such as shared libraries; its folder is searched for libraries first.
- `runner_warmup`: seconds that it warms up before each block of timed inferences (default 0.1).
- `runner_settings`: a text that is handed to the program as it is.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from hwprofiles.errors import BadProfile
from hwprofiles.target import Target

_LABEL = "runner "
PROGRAM = "runner"  # the key of the program among `files`


class Runner:
    """`hwprofiles.runtimes.protocol.Runtime` for a program that speaks request and result files."""

    def backend(self) -> str:
        return resources.files("hwprofiles.runtimes").joinpath("runner_backend.py").read_text("utf-8")

    def options(self, target: Target) -> dict[str, Any]:
        program = self.files(target)[PROGRAM]
        warmup = target.options.get("runner_warmup", 0.1)
        if not isinstance(warmup, int | float) or not 0 <= warmup <= 60:
            raise BadProfile(f"target {target.name!r}: options.runner_warmup is {warmup!r}; write seconds, 0 to 60")
        with program.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "threads": target.threads,
            "provider": target.provider,
            "name": program.name,
            "digest": digest,
            "interpreted": program.suffix == ".py",
            "warmup_seconds": float(warmup),
            "settings": str(target.options.get("runner_settings", "")),
        }

    def files(self, target: Target) -> dict[str, Path]:
        """What travels: the program under "runner", each other file under its own name.

        Raises `BadProfile` for one that is not there.
        """
        given = target.options.get("runner")
        if not isinstance(given, str) or not given:
            raise BadProfile(
                f"target {target.name!r}: runtime 'runner' needs the program; set options.runner or give --runner PATH"
            )
        beside = target.options.get("runner_files", ())
        others = beside if isinstance(beside, tuple) else (str(beside),)
        found = {PROGRAM: Path(given).expanduser()}
        for other in others:
            path = Path(other).expanduser()
            if path.name == PROGRAM or path.name in found:
                raise BadProfile(f"target {target.name!r}: options.runner_files: two files are named {path.name!r}")
            found[path.name] = path
        for path in found.values():
            if not path.is_file():
                raise BadProfile(f"target {target.name!r}: the runner's file {path} is not there; correct the path")
        return found

    def address_space(self, target: Target) -> int:
        """No limit: what the program maps is its own business. The watchdog of resident memory covers it."""
        return 0

    def install_hint(self, target: Target) -> str:
        return (
            f"{target.python or 'python3'} -m pip install numpy, and build the runner for that device (docs/runner.md)"
        )


def with_runner(target: Target, program: Path) -> Target:
    """`target` with this program as its runtime, labelled as such: its times are not those of `target`.

    Raises `BadProfile` if the program is not there.
    """
    options = {**target.options, "runner": str(program.expanduser().absolute())}
    others = [part for part in target.label.split(", ") if part and not part.startswith(_LABEL)]
    label = ", ".join([*others, _LABEL + program.name])
    changed = Target.model_validate({**target.model_dump(), "runtime": "runner", "options": options, "label": label})
    Runner().files(changed)
    return changed
