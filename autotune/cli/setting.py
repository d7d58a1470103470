"""What is measured, where and how, from the options that `measure` and `compare` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from hwprofiles.scenario import Scenario
    from hwprofiles.target import Target

TargetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "--targets",
        metavar="T",
        help="Where to measure; `--targets A B` or repeated. Default: local.",
    ),
]
FolderOption = Annotated[
    list[Path] | None,
    typer.Option("--folder", metavar="DIR", help="Look for targets here, too, e.g. in a study's folder; repeatable."),
]
ScenarioOption = Annotated[
    str,
    typer.Option(
        "--scenario",
        metavar="NAME|FILE",
        help="quick (a first look of at most 15 s; where that is too short for 20 pairs, no winner is named), search, "
        "final, or a TOML file with the fields of a scenario.",
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=1,3,48,320",
        help="Shape of an input with dynamic axes; repeatable. An input that is given several times is measured in "
        "each of the shapes.",
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch", metavar="N", min=1, help="Items per inference: the size of a dynamic first axis."),
]
SecondsOption = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", min=0.1, help="Longest time for the timed pairs; default: the scenario's."),
]
EnergyOption = Annotated[
    float | None,
    typer.Option(
        "--energy",
        metavar="S",
        min=0,
        help="Seconds over which energy is read, where the target has counters; 0: not. Default: the scenario's, or 5.",
    ),
]
InputsOption = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="FILE.npz",
        help="Samples to run: one array per input, samples along its first axis. Default: random numbers.",
    ),
]
RunnerOption = Annotated[
    Path | None,
    typer.Option("--runner", metavar="PATH", help="A native runner of your own that measures instead of the runtime."),
]

_ENERGY_SECONDS = 5.0  # the counters of processors move in steps of a millisecond; of some cards, of 100


@dataclass(frozen=True)
class Setting:
    """Targets that exist, a scenario with batch and shapes, and inputs that all models take."""

    targets: list[Target]
    scenario: Scenario
    inputs: list[dict[str, np.ndarray]]


def read_setting(
    models: Sequence[Path],
    *,
    targets: Sequence[str],
    folders: Sequence[Path],
    scenario: str,
    seconds: float | None,
    energy: float | None,
    shapes: Sequence[str],
    batch: int | None,
    inputs: Path | None,
    runner: Path | None,
    say: Callable[[str], None],
) -> Setting:
    """Check everything that was typed before anything is started.

    Raises `UsageError`, `UnknownTarget`, `BadProfile` and `BadScenario` for what is typed wrong, `DataError` for
    models that cannot be read or do not take the same inputs.
    """
    from hwprofiles.registry import find_target
    from hwprofiles.scenarios import find_scenario

    names = list(targets) or ["local"]
    if "" in names:
        raise UsageError("--targets: name at least one target, e.g. --targets local")
    if len(set(names)) < len(names):
        raise UsageError(f"--targets {' '.join(names)}: one is named twice; name each once")
    wanted = find_scenario(scenario)
    if batch is None and "batch" in wanted.model_fields_set:
        batch = wanted.batch
    feeds, labelled = _inputs(models, inputs, shapes, batch, wanted, say)
    if energy is None:
        energy = wanted.energy_seconds or _ENERGY_SECONDS
    changes: dict[str, object] = {"shapes": labelled, "energy_seconds": energy}
    if batch is not None:
        changes["batch"] = batch  # left out, measuring takes it from the inputs
    if seconds is not None:
        changes["max_seconds"] = seconds
    return Setting(
        targets=[_with_runner(find_target(name, folders=folders), runner) for name in names],
        scenario=wanted.model_copy(update=changes),
        inputs=feeds,
    )


def _inputs(
    models: Sequence[Path],
    file: Path | None,
    shapes: Sequence[str],
    batch: int | None,
    scenario: Scenario,
    say: Callable[[str], None],
) -> tuple[list[dict[str, np.ndarray]], dict[str, dict[str, tuple[int, ...]]]]:
    """Inputs that every model takes, from the user's file or made up, and the shapes by label if there are several."""
    if file is None:
        from autotune.cli.inputs import plan_inputs

        plans = [
            plan_inputs(
                model, shapes, batch=batch, labelled=scenario.shapes, say=say if model is models[0] else _quietly
            )
            for model in models
        ]
        for model, plan in zip(models[1:], plans[1:], strict=True):
            _check_same_inputs(models[0], plans[0].feeds[0], model, plan.feeds[0])
        return list(plans[0].feeds), plans[0].shapes
    from autotune.cli.samples import check_takes, read_samples

    if shapes or batch is not None or scenario.shapes:
        raise UsageError("--inputs: the samples have their shape and batch; leave out --shape, --batch and shapes")
    samples = [dict(sample) for sample in read_samples(models[0], file)]
    for model in models[1:]:
        check_takes(model, samples[0], f"--inputs {file}")
    return samples, {}


def _with_runner(target: Target, runner: Path | None) -> Target:
    if runner is None:
        return target
    if not runner.is_file():
        raise UsageError(f"--runner {runner}: no such file; give the path of your program (docs/runner.md)")
    from hwprofiles.runtimes.runner import with_runner

    return with_runner(target, runner)


def _check_same_inputs(
    model: Path, inputs: Mapping[str, np.ndarray], against: Path, others: Mapping[str, np.ndarray]
) -> None:
    """All are timed on the same arrays."""
    mine = {name: f"{array.dtype}{list(array.shape)}" for name, array in inputs.items()}
    theirs = {name: f"{array.dtype}{list(array.shape)}" for name, array in others.items()}
    if mine != theirs:
        raise DataError(
            f"{model} takes {_spell(mine)} but {against} takes {_spell(theirs)}; they must take the same inputs"
        )


def _spell(inputs: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in inputs.items()) or "nothing"


def _quietly(_: str) -> None:
    """What was said of the first model need not be said of the others."""
