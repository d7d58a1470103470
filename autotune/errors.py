"""What can go wrong here.

AutotuneError                         exit
├── UsageError                          2   wrong argument, unknown name ("did you mean ...")
│   └── ConfigError                     2   a study file: names file, line and key
├── DataError                          65   a model, data set, bundle or store that is broken or not what it says
├── Infeasible                          3   nothing satisfies the constraints; says which, by how much, the nearest
├── DiskError                          74   no space, not writable
├── StoreLocked                        75   another run works on this study
└── TrialFailure                        1   one trial failed; carries a Failure, recorded, the study goes on

Hardware errors live in `hwprofiles.errors` and carry exit codes too. Every message says what happened, to which
thing, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from hwprofiles.errors import Failure

_FEW = 40  # names that a line may hold; a model may have hundreds of layers


class AutotuneError(Exception):
    """Root of everything `autotune` raises on purpose."""

    exit_code = 1


class UsageError(AutotuneError):
    exit_code = 2


class ConfigError(UsageError):
    """`key` is where in a study file the fault is, for whoever knows the file; () where the message says it."""

    exit_code = 2

    def __init__(self, message: str, key: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.key = tuple(key)


class DataError(AutotuneError):
    exit_code = 65


class Infeasible(AutotuneError):
    exit_code = 3


class DiskError(AutotuneError):
    exit_code = 74


class StoreLocked(AutotuneError):
    exit_code = 75


class TrialFailure(AutotuneError):
    """One trial could not be finished. The trial boundary records `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the nearest known ones, or all of them if few, else the first."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    few = names if len(names) <= _FEW else [*names[: _FEW // 2], f"and {len(names) - _FEW // 2} more"]
    return f"known: {', '.join(few)}" if names else "none is known"
