"""The one place where judging calls code of the user: what it raises becomes one line and a kept
traceback."""

from __future__ import annotations

import traceback
from types import TracebackType

from autotune.errors import AutotuneError, TrialFailure
from hwprofiles.errors import Failure, HardwareError

_PASSED_ON = (KeyboardInterrupt, GeneratorExit, MemoryError, AutotuneError, HardwareError)


class user_code:
    """Turns any exception of the block, `SystemExit` included, into `TrialFailure` of kind "user_code".

    `what` is the user's thing that was called, `advice` what helps to repair it. An interrupt, no memory and
    our own errors pass through.
    """

    def __init__(self, what: str, advice: str) -> None:
        self._what = what
        self._advice = advice

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, _PASSED_ON):
            return
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        kept = "".join(traceback.format_exception(error))
        raise user_code_failure(f"{self._what} raised {reason}; {self._advice}", kept) from error


def user_code_failure(message: str, trace: str | None = None) -> TrialFailure:
    """The failure of something the user wrote: `message` says what it did and what to change."""
    return TrialFailure(Failure(kind="user_code", stage="judge", message=message, traceback=trace))
