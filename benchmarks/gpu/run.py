"""Everything that needs an NVIDIA card: the tests marked `gpu` and the benchmarks, into one JSON.

    run.sh WHEELS --wheels-needed [--for 3.12]     prints what fills the folder, on a machine with a network
    run.sh WHEELS [RESULT.json]                    runs everything; nothing is fetched
    run.sh WHEELS RESULT.json --keep FOLDER --seconds 540 --continue         a part of it, then the next

The environments stand on what $PYTHON (default: python3; 3.11 or later) has installed, such as torch, and are gone
afterwards unless --keep names a folder. What cannot be installed, or does not run, is written down as not_run with its
reason. RESULT is written after each step. A call with other --steps adds to it; protocol goes on where the last call of
the same commit was cut short by --seconds, the studies do with the same --keep. HW_AUTOTUNE_COMMIT names the commit
where there is no repository. Exit codes: 0 every step that can run here did (the JSON says which cannot), 1 a step
failed, 2 the command line, or RESULT is of another card, 69 nothing ran: no card, or nothing of this call could begin.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import environments
import machine
import pieces
import plan
import steps
from outcomes import NOT_ASKED, Call, Earlier, OtherCard, Outcome, earlier, joined

RESULTS = Path(__file__).parent / "results"
FAILED, USAGE, NOTHING_RAN = 1, 2, 69  # exit codes


def arguments() -> argparse.Namespace:
    """The command line; ends with 2 for one that makes no sense."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu/run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "wheels",
        type=Path,
        metavar="WHEELS",
        help="folder with wheels of what is to be installed, or with pieces of them: NAME.whl.part-000 and so on, and "
        "NAME.whl.sha256 (see pieces.py)",
    )
    parser.add_argument(
        "result",
        type=Path,
        metavar="RESULT.json",
        nargs="?",
        default=None,
        help="what comes out; default benchmarks/gpu/results/CARD.json, without a card the standard output",
    )
    parser.add_argument(
        "--steps", default=",".join(plan.STEPS), help="those of this call; the others stay as they are (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=None, help="for all of this call; steps are cut short to fit")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="environments and studies, for more")
    parser.add_argument(
        "--continue",
        dest="going_on",
        action="store_true",
        help="leave out steps that an earlier call of the same commit finished, so that the others have their time",
    )
    parser.add_argument("--quick", action="store_true", help="few runs: does everything work at all?")
    parser.add_argument("--study", default="spam", help="a ready-made study for study, tensorrt and comparison")
    parser.add_argument("--trial", action="store_true", help="try the script itself, with the CPU in the card's place")
    parser.add_argument("--wheels-needed", action="store_true", help="print the commands that fill WHEELS; no more")
    parser.add_argument(
        "--for", dest="version", metavar="3.12", help="with it: another machine's Python, on x86-64 Linux"
    )
    found = parser.parse_args()
    found.chosen = found.steps.split(",")
    if unknown := [step for step in found.chosen if step not in plan.STEPS]:
        parser.error(f"no step {unknown[0]!r}; known: {', '.join(plan.STEPS)}")
    if not found.wheels_needed and not found.wheels.is_dir():
        parser.error(f"{found.wheels} is no folder; `--wheels-needed` says what belongs there")
    return found


@dataclass
class Report:
    """The JSON: what an earlier call had in it, and what this one adds. Without `path` it is printed at the end."""

    path: Path | None
    before: Earlier
    call: Call
    facts: dict[str, Any]
    steps: dict[str, Outcome]
    now: dict[str, Outcome]  # of this call alone

    def settle(self, step: str, outcome: Outcome) -> None:
        """Add what became of a step, and write it down."""
        self.now[step] = outcome = replace(outcome, call=self.call)
        self.steps[step] = joined(self.steps.get(step, NOT_ASKED), outcome)
        self.write()
        print(f"{step}: {self.steps[step].line}", file=sys.stderr, flush=True)

    def of_this_commit(self, step: str) -> Outcome | None:
        """What an earlier call of the same commit found."""
        found = self.steps.get(step)
        return found if found is not None and found.call is not None and found.call.commit == self.call.commit else None

    def as_json(self, seconds: float | None = None) -> dict[str, Any]:
        calls = [*self.before.calls, *([] if seconds is None else [{**asdict(self.call), "seconds": seconds}])]
        told = {step: self.steps.get(step, NOT_ASKED).as_json() for step in plan.STEPS}
        return {**asdict(self.call), **self.facts, "steps": told, "calls": calls}

    def write(self, seconds: float | None = None) -> None:
        """Whole or not at all."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(self.as_json(seconds), indent=1) + "\n")
        part.replace(self.path)

    def end(self, seconds: float) -> None:
        """Write the last of it, or print all of it."""
        self.write(seconds)
        if self.path is None:
            sys.stdout.write(json.dumps(self.as_json(seconds), indent=1) + "\n")
        else:
            print(f"written to {self.path}")

    def code(self, chosen: list[str]) -> int:
        """The exit code."""
        if any(step in self.steps and self.steps[step].kind == "failed" for step in chosen):
            return FAILED
        return NOTHING_RAN if self.now and not any(outcome.began for outcome in self.now.values()) else 0


def main() -> int:
    given = arguments()
    if given.wheels_needed:
        print("\n".join(environments.commands(str(given.wheels), given.version)))
        return 0
    began = time.monotonic()
    steps.adopt()
    instead = "the CPU stands in the card's place: nothing here is a number of a card"
    seen = machine.Seen(trial=instead) if given.trial else machine.card()
    try:
        report = begun(given, seen)
    except (OtherCard, ValueError) as error:
        print(error, file=sys.stderr)
        return USAGE
    if seen.no_card:
        report.facts["environments"] = {}
        for step in given.chosen:
            report.settle(step, Outcome("not_run", f"no card: {seen.no_card}"))
    else:
        with folder(given.keep) as work:
            place = furnished(work, given, seen, report)
            go_over(place, report, began + (given.seconds or float("inf")))
    report.end(round(time.monotonic() - began, 1))
    return report.code(given.chosen)


def begun(given: argparse.Namespace, seen: machine.Seen) -> Report:
    """The report with what its file has already. Raises `OtherCard` and `ValueError`."""
    path: Path | None = given.result
    if path is None and seen.card is not None:
        path = RESULTS / (seen.name.lower().replace(" ", "-") + ".json")
    before = earlier(path, seen.name)
    command = " ".join(["benchmarks/gpu/run.sh", *sys.argv[1:]])
    call = Call(command, datetime.now(UTC).isoformat(timespec="seconds"), machine.commit(), given.quick)
    anew = {*asdict(call), *asdict(seen)}
    facts = {name: value for name, value in before.facts.items() if name not in anew}
    facts |= {"machine": machine.facts(), **seen.facts()}
    return Report(path, before, call, facts, dict(before.steps), {})


@contextlib.contextmanager
def folder(keep: Path | None) -> Iterator[Path]:
    """Where environments and studies lie: the one that is kept, or one for this call."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="hw-autotune-gpu-") as found:
        yield Path(found).absolute()


def furnished(work: Path, given: argparse.Namespace, seen: machine.Seen, report: Report) -> plan.Place:
    """The environments, made or found there; what they are is written down."""
    joined_wheels, refused = pieces.join(given.wheels, work / environments.JOINED)
    if joined_wheels or refused:
        report.facts["wheels_in_pieces"] = {"sha256": joined_wheels, "refused": refused}
        for name, why in refused.items():
            print(f"wheel {name}: {why}", file=sys.stderr, flush=True)
    made: dict[str, dict[str, Any]] = {}
    report.facts["environments"] = made
    for name in environments.NAMES:
        made[name] = environments.make(name, given.wheels, work / name)
        print(f"environment {name}: {made[name].get('not_installed', 'made')}", file=sys.stderr, flush=True)
    if seen.nvml and "python" in made["main"]:
        report.facts |= machine.asked_again(seen, made["main"]["python"]).facts()
    report.write()
    return plan.Place(work, made, given)


def go_over(place: plan.Place, report: Report, deadline: float) -> None:
    """Every step that was asked for and has something left to do, each in its share of the time."""
    given = place.given
    before = {step: report.of_this_commit(step) for step in plan.STEPS}
    done = {step for step, found in before.items() if given.going_on and found is not None and found.kind == "ran"}
    todo = [step for step in plan.STEPS if step in given.chosen and step not in done]
    barred = {step: why for step in todo if (why := plan.cannot(step, place))}
    for index, step in enumerate(todo):
        later = [name for name in todo[index:] if name not in barred]
        limit = plan.share(step, later, deadline - time.monotonic() - plan.SPARE)
        if step in barred or limit < plan.LEAST:
            report.settle(step, Outcome("not_run", barred.get(step, "no time was left of --seconds")))
        else:
            report.settle(step, plan.carry_out(step, place, limit, before[step]))


if __name__ == "__main__":
    sys.exit(main())
