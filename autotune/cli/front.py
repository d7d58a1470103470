"""`autotune front`: the Pareto front of a recorded study, also within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.output import JsonFlag, StoreOption, StudyArgument, print_json, results, say, show
from autotune.cli.sources import check_key, open_recorded, parse_limits
from autotune.errors import Infeasible, UsageError
from autotune.keys import MetricKey, format_amount, parse_key

if TYPE_CHECKING:
    from autotune.config import StudyConfig
    from autotune.pareto import Explanation
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
    as_json: JsonFlag = False,
) -> None:
    """Show the Pareto front, in all objectives of the study or in --x and --y, within --max and --min.

    When nothing is within the limits, it says which limit binds, by how much, and the nearest trial (exit
    code 3).
    """
    from autotune.api import choose
    from autotune.search.agreement import doubts

    config, opened = open_recorded(study, store)
    with opened:
        trials = opened.trials()
        metric = metric_of(trials)
        limits = parse_limits(largest or [], smallest or [], config, metric)
        choice = choose(trials, config, keys=_axes(x, y, config, metric), limits=limits)
        doubt = doubts(opened, choice.recommended)
    if choice.explanation is not None or not choice.front:
        _nothing(choice.explanation, as_json)
    if as_json:
        recommended = choice.recommended.number if choice.recommended else None
        front_points = [point(trial) for trial in choice.front]
        print_json({"front": front_points, "recommended": recommended, "doubt": doubt})
        return
    show_front(choice.front, trials, config, choice.recommended)
    if doubt:
        say(doubt)
    if choice.recommended is None and choice.reason:
        say(f"No trial is recommended: {choice.reason}")


def show_front(front: list[Trial], trials: list[Trial], config: StudyConfig, recommended: Trial | None) -> None:
    """Print the table and what its marks mean."""
    from autotune.api.tables import front_table, legend

    show(front_table(front, trials, config, recommended, columns=results().width))
    results().print(legend(front, recommended, trials, config), style="dim")


def point(trial: Trial) -> dict[str, Any]:
    """A trial as the JSON of `front` has it: final values where it is a finalist."""
    from autotune.api.tables import shown_values

    return {
        "trial": trial.number,
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
    message = explain(explanation)
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


def explain(explanation: Explanation) -> str:
    """Which limit binds, by how much, the nearest trial; in the units people use."""
    key = parse_key(explanation.constraint)
    missing, limit, value = (
        format_amount(number, key) for number in (explanation.missing_by, explanation.limit, explanation.value)
    )
    if explanation.unreachable:
        cause = f"no trial reaches {' nor '.join(explanation.unreachable)}"
    else:
        cause = "each limit is reached by some trial, but never all at once"
    return (
        f"nothing is within the limits: {cause}; nearest is trial {explanation.nearest.number} with "
        f"{explanation.constraint} {value}, which misses {limit} by {missing}"
    )
