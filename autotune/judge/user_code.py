"""The one place where code of the user is called: whatever it raises becomes one line and a kept
traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from autotune.errors import AutotuneError, TrialFailure
from hwprofiles.errors import Failure, HardwareError


@contextmanager
def user_code(what: str, advice: str) -> Iterator[None]:
    """Turn any exception of the block into `TrialFailure` of kind "user_code"; our own errors pass
    through."""
    try:
        yield
    except (AutotuneError, HardwareError):
        raise
    # NOTE: blind, because nothing is known about foreign code; it is recorded with its traceback, never
    # swallowed.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise user_code_failure(f"{what} raised {reason}; {advice}", traceback.format_exc()) from error


def user_code_failure(message: str, trace: str | None = None) -> TrialFailure:
    """The failure of something the user wrote: `message` says what it did and what to change."""
    return TrialFailure(Failure(kind="user_code", stage="judge", message=message, traceback=trace))
