"""What became of each step, as the JSON has it, and how a later call's answers join an earlier one's. Stdlib only.

A step's entry has `outcome`, one of `OUTCOMES`, and for all but `ran` a `why`; beside them what the step wrote itself,
and which call it was: `command`, `date`, `commit`, `quick`. One that was found by an earlier call and could not run in
a later one keeps what it has, and says under `not_again` why not.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["ran", "unfinished", "failed", "not_run"]
OUTCOMES: tuple[Kind, ...] = get_args(Kind)
_OURS = ("outcome", "why", "not_again", "command", "date", "commit", "quick")


@dataclass(frozen=True)
class Call:
    """One call of `run.sh`: what a number has to say of where it comes from."""

    command: str
    date: str
    commit: str
    quick: bool


@dataclass(frozen=True)
class Outcome:
    """Of one step. `found` is what it wrote; `call` the one that it ran in, None for a step that nobody asked for.

    `why`: one line, "" where it ran and has nothing left to do.
    """

    kind: Kind
    why: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    call: Call | None = None
    not_again: str = ""

    def __post_init__(self) -> None:
        if self.kind not in OUTCOMES:
            raise ValueError(f"{self.kind!r} is no outcome of a step; known: {', '.join(OUTCOMES)}")
        if (self.kind == "ran") is bool(self.why):
            raise ValueError(f"{self.kind} with the reason {self.why!r}: all but a step that ran have one")
        if clash := sorted(set(self.found) & set(_OURS)):
            raise ValueError(f"a step wrote {', '.join(clash)}, which are told of it and not by it")

    @property
    def began(self) -> bool:
        """Whether there is anything of it."""
        return self.kind != "not_run"

    @property
    def line(self) -> str:
        """For whoever watches."""
        words = self.kind.replace("_", " ")
        said = f"{words}: {self.why}" if self.why else words
        return f"{said} (not again: {self.not_again})" if self.not_again else said

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"outcome": self.kind}
        told |= {name: text for name, text in (("why", self.why), ("not_again", self.not_again)) if text}
        return {**told, **self.found, **({} if self.call is None else asdict(self.call))}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Outcome:
        """Raises `KeyError` and `ValueError` for an entry of another shape."""
        call = Call(told["command"], told["date"], told["commit"], told["quick"]) if "commit" in told else None
        found = {name: value for name, value in told.items() if name not in _OURS}
        return cls(told["outcome"], told.get("why", ""), found, call, told.get("not_again", ""))


NOT_ASKED = Outcome("not_run", "not asked for")


def of_step(written: dict[str, Any], failed: str = "") -> Outcome:
    """From what a step wrote, and how its process failed ("": it did not).

    Steps say themselves, in one key each, that they could not begin (`not_run`), that they failed (`failed`) or what
    another call would add (`unfinished`, of which the entry keeps the parts). The first of them counts, and a failure
    of the process before the last.
    """
    found = {name: value for name, value in written.items() if name not in ("not_run", "failed")}
    if why := written.get("not_run"):
        return Outcome("not_run", str(why), found)
    if why := written.get("failed") or failed:
        return Outcome("failed", str(why), found)
    if left := written.get("unfinished"):
        return Outcome("unfinished", _spelled(left), found)
    return Outcome("ran", "", found)


def joined(before: Outcome, now: Outcome) -> Outcome:
    """The entry of a step after another call: what is new, or what was there where this time nothing could be done."""
    if before.began and not now.began:
        return replace(before, not_again=now.why)
    return now


def _spelled(left: Any) -> str:
    """What is unfinished, in one line; of many parts the first."""
    if isinstance(left, dict):
        return "; ".join(f"{name}: {value}" for name, value in left.items())
    if isinstance(left, list) and len(left) > 1:
        return f"{left[0]}; and {len(left) - 1} more"
    return str(left[0] if isinstance(left, list) else left)


@dataclass(frozen=True)
class Earlier:
    """What the result's file had before this call. `facts`: all but steps and calls."""

    facts: dict[str, Any]
    steps: dict[str, Outcome]
    calls: list[dict[str, Any]]


class OtherCard(Exception):
    """The file is of another card; one line."""


def earlier(path: Path | None, card: str) -> Earlier:
    """What an earlier call on this `card` ("none": no card) wrote into `path`; nothing where it had found no card.

    Raises `OtherCard`, so that nothing is written over, and `ValueError` for a file that is none of ours.
    """
    nothing = Earlier({}, {}, [])
    if path is None or not path.is_file():
        return nothing
    try:
        told = json.loads(path.read_text())
        if "card" not in told and "trial" not in told:
            return nothing
        there = str(told.get("card", {}).get("name", "none"))
        if there != card:
            raise OtherCard(f"{path} is of another card ({there}, here: {card}); name another file")
        steps = {name: Outcome.from_json(entry) for name, entry in told["steps"].items()}
        facts = {name: value for name, value in told.items() if name not in ("steps", "calls")}
        return Earlier(facts, steps, list(told["calls"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no result of this script ({type(error).__name__}: {error}); move it") from error
