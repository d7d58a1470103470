"""`autotune run`: search until the budget is spent; the same command goes on where it stopped."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import limits
from autotune.cli.boundary import INTERRUPTED
from autotune.cli.output import (
    AllTargets,
    JsonFlag,
    StoreOption,
    StudyArgument,
    messages,
    print_json,
    results,
    say,
    shown,
)
from autotune.errors import Infeasible
from autotune.keys import parse_key
from hwprofiles.errors import TargetUnavailable

if TYPE_CHECKING:
    from autotune.api import Choice
    from autotune.config import LoadedStudy, StudyConfig
    from autotune.search.shortfall import Shortfall, Within
    from autotune.search.study import RunSummary
    from autotune.trial import Trial


def run(
    study: StudyArgument,
    trials: Annotated[
        int | None,
        typer.Option("--trials", metavar="N", help="Trials in all, instead of the study's number."),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option("--hours", metavar="H", help="Stop after this time, instead of the study's."),
    ] = None,
    store: StoreOption = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="T", help="Instead of the study's targets; repeatable."),
    ] = None,
    until_stable: Annotated[
        bool, typer.Option("--until-stable", help="Stop before that when more trials promise nothing.")
    ] = False,
    warm_start: Annotated[
        list[str] | None,
        typer.Option("--warm-start", metavar="PATH", help="Learn from a store, FILE#STUDY or a recipe; repeatable."),
    ] = None,
    max_size: limits.MaxSize = None,
    max_latency_p50: limits.MaxP50 = None,
    max_latency_p90: limits.MaxP90 = None,
    max_latency_ratio: limits.MaxRatio = None,
    max_memory: limits.MaxMemory = None,
    max_energy: limits.MaxEnergy = None,
    max_drop: limits.MaxDrop = None,
    min_accuracy: limits.MinAccuracy = None,
    largest: limits.Largest = None,
    smallest: limits.Smallest = None,
    all_targets: AllTargets = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a study, or go on with it: nothing that is recorded is measured again.

    Ends with the Pareto front and the path of the report. Ctrl-C stops after the current step (exit code
    130), a second one at once. A target that goes away pauses only itself; when it does not come back, the run
    ends with what there is (exit code 69). One that is not there when the study begins is left out of it, unless
    all are insisted on.

    With a budget the search solves for the best recipe within it and spends its trials there. Ends with that
    recipe and its margins, or with what keeps there from being one (exit code 3).
    """
    from autotune.api import choose
    from autotune.api.watch import ProgressView
    from autotune.config import load_study, load_workload, override
    from autotune.report import default_path, write_report
    from autotune.search.agreement import doubts
    from autotune.search.shortfall import Shortfall, kept_predicted, outcome
    from autotune.search.study import Study
    from autotune.search.transfer import stored_transfer

    named = {
        "--max-size": max_size,
        "--max-latency-p50": max_latency_p50,
        "--max-latency-p90": max_latency_p90,
        "--max-latency-ratio": max_latency_ratio,
        "--max-memory": max_memory,
        "--max-energy": max_energy,
        "--max-drop": max_drop,
        "--min-accuracy": min_accuracy,
    }
    loaded = override(
        load_study(study),
        trials=trials,
        hours=hours,
        targets=list(dict.fromkeys(target or ())),
        budget=limits.asked(named, largest, smallest),
        until_stable=until_stable,
        warm_start=warm_start or (),
        all_targets=all_targets,
    )
    _tell_spread(loaded)
    workload = load_workload(loaded, say=say)
    with loaded.placing(), Study.open(loaded.config, workload, store=store, folder=loaded.folder) as opened:
        with ProgressView(messages()) as view, Stopping() as stopping:
            summary = opened.run(view.update, stopping.event)
        rows = opened.store.trials()
        report = default_path(opened.store)
        write_report(opened.store, report)
        config = opened.config  # without targets that were left out
        choice = choose(rows, config)
        doubt = doubts(opened.store, choice.recommended)
        budget = outcome(rows, config, kept_predicted(opened.store))
        helped = stored_transfer(opened.store)
    if as_json:
        met = None if budget is None else budget.as_json()
        left_out = [each.model_dump() for each in config.left_out]
        print_json(
            _summary(choice, len(rows), str(report), summary) | {"doubt": doubt, "budget": met, "left_out": left_out}
        )
    else:
        _print(choice, rows, config, budget, str(report), doubt)
        if helped is not None:
            say(helped.sentence)
    if stopping.event.is_set():
        say("stopped; the same command goes on from here")
        raise typer.Exit(INTERRUPTED)
    if summary.gone:
        raise TargetUnavailable(_gone(summary, study))
    if isinstance(budget, Shortfall):
        raise Infeasible(budget.line)
    if choice.explanation is not None:
        raise Infeasible(str(choice.explanation))


def _tell_spread(loaded: LoadedStudy) -> None:
    """Say what a limit without a target is meant for, where there are several."""
    meant: dict[str, list[str]] = {}
    for key, asked in loaded.asked.items():
        target = parse_key(key).target
        if target is not None and "@" not in asked.said:
            meant.setdefault(asked.said, []).append(target)
    for said, targets in meant.items():
        if len(loaded.config.targets) > 1:
            say(f"{said} is meant for {' and '.join(targets)}")


class Stopping:
    """Ctrl-C and SIGTERM: the first sets `event`, the second interrupts, a third ends the process on the
    spot.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._count = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopping:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal() itself returned

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        self.event.set()
        if self._count == 1:
            os.write(2, b"\nautotune: stopping after the current step; press Ctrl-C again to stop at once\n")
        elif self._count == 2:
            raise KeyboardInterrupt
        else:
            os._exit(INTERRUPTED)


def _gone(summary: RunSummary, study: str) -> str:
    """Which target did not come back, what is there nevertheless, and how to go on."""
    count = len(summary.waiting)
    left = f", {count} {'trial waits' if count == 1 else 'trials wait'} for it" if count else ""
    again = shlex.join(["autotune", "run", study])
    kept = "1 trial is" if summary.trials == 1 else f"{summary.trials} trials are"
    return f"{summary.gone}; {kept} recorded{left}; `{again}` goes on when it is back"


def _summary(choice: Choice, trials: int, report: str, summary: RunSummary) -> dict[str, object]:
    from autotune.cli.front import point

    return {
        "trials": trials,
        "front": [point(trial) for trial in choice.front],
        "recommended": choice.recommended.number if choice.recommended else None,
        "report": report,
        "stopped": summary.stopped,
        "gone": summary.gone,
        "waiting": list(summary.waiting),
    }


def _print(
    choice: Choice,
    rows: list[Trial],
    config: StudyConfig,
    budget: Within | Shortfall | None,
    report: str,
    doubt: str,
) -> None:
    from autotune.cli.front import show_common, show_front, show_left_out

    if choice.front:
        show_front(choice.front, rows, config, choice.recommended)
        show_common(choice, config)
    show_left_out(config)
    failed = [str(trial.number) for trial in rows if trial.state == "failed"]
    if failed:
        some = ", ".join(failed[:8]) + (", ..." if len(failed) > 8 else "")
        say(f"{len(failed)} trials failed ({some}); `autotune show` says why")
    if doubt:
        say(doubt)
    if budget is not None:
        results().print("\n".join(budget.lines), markup=False, soft_wrap=True)
    elif choice.recommended is None and choice.reason:
        say(f"No trial is recommended: {choice.reason}")
    results().print(f"report: {shown(report)}", markup=False, soft_wrap=True)
