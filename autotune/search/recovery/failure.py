"""What broke a training, in one sentence with its place; the study goes on."""

from __future__ import annotations

import traceback

from autotune.errors import DataError, DiskError, StoreLocked, TrialFailure, UsageError
from autotune.search.targets import Stopped
from hwprofiles.errors import Failure, HardwareError

ABOUT_THE_STUDY = (Stopped, DiskError, StoreLocked, HardwareError, OSError)  # these end more than a training


def broken(error: Exception, what: str) -> Failure:
    """The failure of a training; `what` was trained. Of the user's own code the file and line are told."""
    said = f"{what}: "
    if isinstance(error, TrialFailure):
        return error.failure.model_copy(update={"message": said + error.failure.message.removeprefix("recover: ")})
    if isinstance(error, DataError | UsageError):
        message = said + str(error).removeprefix("recover: ")
        return Failure(kind="unsupported", stage="recover", message=message)
    if isinstance(error, MemoryError):
        message = f"{said}the memory of this machine is full; choose a smaller batch in [recover]"
        return Failure(kind="oom", stage="recover", message=message)
    first = str(error).splitlines()[0] if str(error) else "no message"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    message = f"{said}{type(error).__name__}: {first}{place}"
    return Failure(
        kind="user_code", stage="recover", message=message, traceback="".join(traceback.format_exception(error))
    )
