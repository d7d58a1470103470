"""The command line: `autotune new | check | run | front | show | export | report`, and without a study
`measure | compare | judge | parity | targets`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_NAMELESS = "--targets="  # without a name after it; the command says so


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `--debug` is understood anywhere on the line."""
    from autotune.cli.app import app
    from autotune.cli.boundary import guarded
    from autotune.cli.limits import spread_limits

    words = list(sys.argv[1:] if arguments is None else arguments)
    before, dashes, after = _split(words)
    debug = "--debug" in before
    kept = spread_limits(_spread([word for word in before if word != "--debug"]))
    return guarded(app, [*kept, *dashes, *after], debug=debug)


def _split(words: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What stands before and after `--`, which ends the options."""
    if "--" not in words:
        return words, [], []
    at = words.index("--")
    return words[:at], ["--"], words[at + 1 :]


def _spread(words: list[str]) -> list[str]:
    """`--targets A B` and `--targets A,B` as `--targets A --targets B`.

    The list ends at the next option, and at a model: no target is called something.onnx.
    """
    spread: list[str] = []
    listing = named = False
    for word in words:
        if word == "--targets":
            listing, named = True, False
            continue
        if listing and not word.startswith("-") and not word.lower().endswith(".onnx"):
            for name in filter(None, word.split(",")):
                spread += ["--targets", name]
                named = True
            continue
        if listing and not named:
            spread.append(_NAMELESS)
        listing = False
        spread.append(word)
    return [*spread, _NAMELESS] if listing and not named else spread
