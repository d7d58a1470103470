"""Opening a target for a person: what is known to be missing is said at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autotune.cli.readiness import ON_CARDS

if TYPE_CHECKING:
    from hwprofiles.device import Device
    from hwprofiles.target import Target


def opened(target: Target, work: Path) -> Device:
    """The device, open. Raises as `open_device`; of a card that is not there the driver is named first."""
    from hwprofiles.agent import cuda
    from hwprofiles.device import open_device
    from hwprofiles.errors import TargetLost, TargetUnavailable

    try:
        return open_device(target, work=work)
    except TargetLost:
        raise
    except TargetUnavailable as error:
        if target.transport != "local" or target.runtime not in ON_CARDS:
            raise
        who = f"target {target.name!r}: "
        said = str(error).removeprefix(who)
        try:
            cuda.probe()
        except cuda.CudaProblem as problem:
            if str(problem) not in said:  # the runtime could not even be asked
                raise TargetUnavailable(f"{who}{problem}; and {said}") from error
        raise
