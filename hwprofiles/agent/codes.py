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
    if code > 128:
        try:
            return signal.Signals(code - 128).name
        except ValueError:
            pass
    return f"exit code {code}"
