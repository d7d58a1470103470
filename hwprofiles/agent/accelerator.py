"""What the agent asks the driver about the card that a runtime uses. Runs on the device; Python 3.9, numpy not needed.

A runtime uses a card if its `describe` says how it times (`timer`). A card of which the driver tells nothing is no
reason not to measure: the readings are None then.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hwprofiles.agent import nvml

_PROGRAM = re.compile(r"(agent-[0-9a-f]{16}|[0-9a-f]{64})\.pyz")  # how transports call an agent's file


class CardLost(Exception):
    """The card fell off the bus: what was being measured is lost, and nothing is said of the model."""


class Watched:
    """A card and our way to it. `present`: the runtime uses one. `card`: None where the driver cannot be asked."""

    def __init__(self, present: bool, card: nvml.Card | None) -> None:
        self.present = present
        self.card = card

    def reading(self) -> dict[str, Any] | None:
        """`nvml.Card.reading`. Raises `CardLost`."""
        if self.card is None:
            return None
        try:
            return self.card.reading()
        except nvml.NvmlProblem as error:
            raise CardLost(str(error)) from error

    def look(self) -> dict[str, Any]:
        """What is read after each block."""
        told = self.reading() or {}
        return {key: told.get(key) for key in ("clock_hz", "temperature_c", "reasons")}

    def memory(self) -> dict[str, int | None]:
        """Bytes that are held on the card, by where that was read; see `nvml.Card.held_bytes`. Raises `CardLost`."""
        if self.card is None:
            return {}
        try:
            return self.card.held_bytes(os.getpid())
        except nvml.NvmlProblem as error:
            raise CardLost(str(error)) from error

    def own(self) -> list[int]:
        """Processes on this machine that are no disturbance: agents of ours, and what they have started.

        Whoever measures holds the device alone, so that no other agent uses the card meanwhile, whatever it keeps
        there.
        """
        return sorted({os.getpid(), *_agents()}) if self.present else []


NONE = Watched(False, None)


def attach(facts: dict[str, Any]) -> Watched:
    """The card that a runtime with these `facts` of `describe` uses. What it is called is added to them as `card`,
    unless they have it, and why the driver cannot be asked as `card_problem`."""
    if "timer" not in facts:
        return NONE
    try:
        card = nvml.open_card(uuid=facts.get("card_uuid", ""))
    except nvml.NvmlProblem as error:
        facts["card_problem"] = str(error)
        return Watched(True, None)
    facts.setdefault("card", card.identity())
    return Watched(True, card)


def about(session: Any, feed: dict[str, Any]) -> dict[str, Any] | None:
    """What a session on a card tells of itself once it is warm; None for any other."""
    if not hasattr(session, "accelerator_memory"):
        return None
    return {
        "memory": session.accelerator_memory(feed),
        "builds": list(session.builds()) if hasattr(session, "builds") else [],
        "conditions": dict(getattr(session, "conditions", {})),
        "notes": [str(note)[:300] for note in getattr(session, "notes", [])][:20],
    }


def grown(before: dict[str, int | None], after: dict[str, int | None]) -> dict[str, Any]:
    """`process` and `process_source` of `hwprofiles.measurement.AcceleratorMemory`: by the first source that told both
    times, the process's before the device's. The CUDA context of the process is part of it: one that holds nothing
    after it has used the card is not shown by the driver."""
    for source, end in after.items():
        start = before.get(source)
        if source == nvml.OF_PROCESS and not end:
            continue
        if start is not None and end is not None:
            return {"process": max(0, end - start), "process_source": source}
    return {"process": None, "process_source": ""}


def _agents() -> list[int]:
    """Processes that were started with an agent's program, or by one. None where there is no /proc."""
    mine: set[int] = set()
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
        parents[int(entry.name)] = parent
        if any(_PROGRAM.fullmatch(Path(os.fsdecode(word)).name) for word in words[1:4]):
            mine.add(int(entry.name))
    grew = True
    while grew:
        children = {process for process, parent in parents.items() if parent in mine} - mine
        mine |= children
        grew = bool(children)
    return sorted(mine)
