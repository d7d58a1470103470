"""`autotune front`: the Pareto front of a recorded study, also within limits; with several targets one for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.output import JsonFlag, StoreOption, StudyArgument, print_json, results, say, show
from autotune.cli.sources import check_key, open_recorded, parse_limits
from autotune.errors import Infeasible, UsageError
from autotune.keys import MetricKey

if TYPE_CHECKING:
    from autotune.api import Choice
    from autotune.config import StudyConfig
    from autotune.pareto import Explanation, Served
    from autotune.trial import Trial


def front(
    study: StudyArgument,
    store: StoreOption = None,
    x: Annotated[str | None, typer.Option("--x", metavar="KEY", help="First metric of the front, with --y.")] = None,
    y: Annotated[str | None, typer.Option("--y", metavar="KEY", help="Second metric of the front, with --x.")] = None,
    largest: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="KEY=VALUE", help="Only trials up to this, e.g. size_bytes=10MB."),
    ] = None,
    smallest: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="KEY=VALUE", help="Only trials from this on, e.g. accuracy=90%."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="T", help="Of several targets only this one."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the Pareto front, in all objectives of the study or in --x and --y, within --max and --min.

    With several targets: the front of each in its own costs, the one model for all of them, and what it costs each
    against the best for that target alone.

    When nothing is within the limits, it says which limit binds, by how much, and the nearest trial (exit
    code 3).
    """
    from autotune.api import choose
    from autotune.api.several import as_json as target_json
    from autotune.search.agreement import doubts
    from autotune.search.shortfall import Shortfall, kept_predicted, outcome

    if target is not None and (x is not None or y is not None):
        raise UsageError("--target is a front of that target's own metrics, --x and --y name others; give one of them")
    config, opened = open_recorded(study, store)
    with opened:
        trials = opened.trials()
        metric = metric_of(trials)
        limits = parse_limits(largest or [], smallest or [], config, metric)
        choice = choose(trials, config, keys=_axes(x, y, config, metric), limits=limits or None)
        doubt = doubts(opened, choice.recommended)
        met = None if limits else outcome(trials, config, kept_predicted(opened))
    if (limits and choice.explanation is not None) or not choice.front:
        _nothing(choice.explanation, as_json)
    shown = choice.targets if target is None else (choice.target(target),)
    if as_json:
        members = choice.front if target is None else shown[0].front
        print_json(
            {
                "front": [point(trial) for trial in members],
                "recommended": choice.recommended.number if choice.recommended else None,
                "doubt": doubt,
                "guarded": list(choice.guarded),
                "budget": None if met is None else met.as_json(),
                "targets": {served.target: target_json(served) for served in shown},
                "left_out": [each.model_dump() for each in config.left_out],
            }
        )
        return
    if shown:
        _show_targets(shown, choice, trials, config)
    else:
        show_front(choice.front, trials, config, choice.recommended)
        show_common(choice, config)
    show_left_out(config)
    if doubt:
        say(doubt)
    if met is not None:
        results().print("\n".join(met.lines), markup=False, soft_wrap=True)
    elif choice.recommended is None and choice.reason:
        say(f"No trial is recommended: {choice.reason}")
    if isinstance(met, Shortfall):
        raise Infeasible(met.line)


def show_front(front: list[Trial], trials: list[Trial], config: StudyConfig, recommended: Trial | None) -> None:
    """Print the table and what its marks mean."""
    from autotune.api.tables import front_table, legend, with_recommended

    rows = with_recommended(front, recommended)
    show(front_table(rows, trials, config, recommended, columns=results().width))
    results().print(legend(rows, recommended, trials, config), style="dim")


def show_common(choice: Choice, config: StudyConfig) -> None:
    """Print the one model for all targets and what it costs each, and what is not offered on a target."""
    from autotune.api.several import common_text

    text = common_text(choice, config)
    if text:
        results().print(text, markup=False, soft_wrap=True)


def show_left_out(config: StudyConfig) -> None:
    """Print the targets that the study was begun without."""
    for left in config.left_out:
        results().print(left.sentence, style="yellow", markup=False, soft_wrap=True)


def _show_targets(targets: Sequence[Served], choice: Choice, trials: list[Trial], config: StudyConfig) -> None:
    from autotune.api.several import marks, rows_of, title, union
    from autotune.api.tables import front_table, legend

    for served in targets:
        results().print(title(served), style="bold", markup=False)
        show(
            front_table(
                rows_of(served),
                trials,
                config,
                choice.recommended,
                columns=results().width,
                target=served.target,
                own=served.own,
            )
        )
    said = (marks(targets), legend(union(targets), None, trials, config))
    results().print(" ".join(part for part in said if part), style="dim", markup=False)
    show_common(dataclasses.replace(choice, targets=tuple(targets)), config)


def point(trial: Trial) -> dict[str, Any]:
    """A trial as the JSON of `front` has it: final values where it is a finalist."""
    from autotune.api.tables import shown_values, verdict_data

    return {
        "trial": trial.number,
        **verdict_data(trial),
        "metrics": {key: value.model_dump() for key, value in sorted(shown_values(trial).items())},
    }


def metric_of(trials: list[Trial]) -> str | None:
    """The name of the workload's own metric, from what was judged."""
    return next((evaluation.metric for trial in trials for evaluation in trial.evaluations), None)


def _axes(x: str | None, y: str | None, config: StudyConfig, metric: str | None) -> list[MetricKey]:
    if (x is None) != (y is None):
        raise UsageError("--x and --y belong together; give both, or none for all objectives")
    return [check_key(text, config, metric) for text in (x, y) if text is not None]


def _nothing(explanation: Explanation | None, as_json: bool) -> None:
    if explanation is None:
        message = "the study has no complete trial yet; `autotune run` it, or look at `autotune show STUDY 0`"
        if as_json:
            print_json({"front": [], "infeasible": {"message": message}})
        raise Infeasible(message)
    message = str(explanation)
    if as_json:
        print_json(
            {
                "front": [],
                "infeasible": {
                    "message": message,
                    "constraint": explanation.constraint,
                    "limit": explanation.limit,
                    "missing_by": explanation.missing_by,
                    "value": explanation.value,
                    "nearest": point(explanation.nearest),
                    "unreachable": list(explanation.unreachable),
                },
            }
        )
    raise Infeasible(message)
