"""`autotune run`: search until the budget is spent; the same command goes on where it stopped."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.boundary import INTERRUPTED
from autotune.cli.output import JsonFlag, StoreOption, StudyArgument, messages, print_json, results, say, shown
from autotune.errors import Infeasible
from hwprofiles.errors import TargetUnavailable

if TYPE_CHECKING:
    from autotune.api import Choice
    from autotune.config import StudyConfig
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
    as_json: JsonFlag = False,
) -> None:
    """Run a study, or go on with it: nothing that is recorded is measured again.

    Ends with the Pareto front and the path of the report. Ctrl-C stops after the current step (exit code
    130), a second one at once. A target that goes away pauses only itself; when it does not come back, the run
    ends with what there is (exit code 69).
    """
    from autotune.api import choose
    from autotune.api.watch import ProgressView
    from autotune.config import load_study, load_workload, override
    from autotune.report import write_report
    from autotune.search.agreement import doubts
    from autotune.search.study import Study

    loaded = override(load_study(study), trials=trials, hours=hours, targets=list(dict.fromkeys(target or ())))
    workload = load_workload(loaded, say=say)
    with Study.open(loaded.config, workload, store=store, folder=loaded.folder) as opened:
        with ProgressView(messages()) as view, Stopping() as stopping:
            summary = opened.run(view.update, stopping.event)
        rows = opened.store.trials()
        report = opened.store.folder / "report.html"
        write_report(opened.store, report)
        choice = choose(rows, loaded.config)
        doubt = doubts(opened.store, choice.recommended)
    if as_json:
        print_json(_summary(choice, len(rows), str(report), summary) | {"doubt": doubt})
    else:
        _print(choice, rows, loaded.config, str(report), doubt)
    if stopping.event.is_set():
        say("stopped; the same command goes on from here")
        raise typer.Exit(INTERRUPTED)
    if summary.gone:
        raise TargetUnavailable(_gone(summary, study))
    if choice.explanation is not None:
        from autotune.cli.front import explain

        raise Infeasible(explain(choice.explanation))


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


def _print(choice: Choice, rows: list[Trial], config: StudyConfig, report: str, doubt: str) -> None:
    from autotune.cli.front import show_front

    if choice.front:
        show_front(choice.front, rows, config, choice.recommended)
    failed = [str(trial.number) for trial in rows if trial.state == "failed"]
    if failed:
        some = ", ".join(failed[:8]) + (", ..." if len(failed) > 8 else "")
        say(f"{len(failed)} trials failed ({some}); `autotune show` says why")
    if doubt:
        say(doubt)
    if choice.recommended is None and choice.reason:
        say(f"No trial is recommended: {choice.reason}")
    results().print(f"report: {shown(report)}", markup=False, soft_wrap=True)
