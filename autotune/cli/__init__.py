"""The command line: `autotune new | check | run | front | show | export | report | measure | targets`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `--debug` is understood anywhere on the line."""
    from autotune.cli.app import app
    from autotune.cli.boundary import guarded

    words = list(sys.argv[1:] if arguments is None else arguments)
    before, dashes, after = _split(words)
    debug = "--debug" in before
    kept = [word for word in before if word != "--debug"]
    return guarded(app, [*kept, *dashes, *after], debug=debug)


def _split(words: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What stands before and after `--`, which ends the options."""
    if "--" not in words:
        return words, [], []
    at = words.index("--")
    return words[:at], ["--"], words[at + 1 :]
