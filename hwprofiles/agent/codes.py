"""Exit codes of the agent's supervisor. Runs on both sides: Python 3.9."""

from __future__ import annotations

import signal

OUT_OF_MEMORY = 120  # the memory guard ended the program
ENDED = 121  # from outside: stdin was closed, the parent is gone or a signal came. Says nothing about the program
BAD_REQUEST = 76  # its requests could not be read

GUARD_SAYS = "memory guard: "  # how the supervisor's line on stderr begins when it ends a program


def spell(code: int) -> str:
    """An exit code in words: "exit code 3", "SIGSEGV" for 139 (128 + the signal's number)."""
    if code == ENDED:
        return "ended from outside"
    return f"exit code {code}" if code <= 128 else _signal(code - 128) or f"exit code {code}"


def spell_child(code: int) -> str:
    """How a child of this process ended, as `subprocess` tells it: "exit code 3", "SIGSEGV" for -11."""
    return f"exit code {code}" if code >= 0 else _signal(-code) or f"signal {-code}"


def _signal(number: int) -> str:
    """Its name; "" for a number without one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""
