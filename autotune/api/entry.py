"""The one-call entry for a notebook or script."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autotune.api.result import Result
from autotune.api.watch import ProgressView
from autotune.config import StudyConfig, families_of, impossible, read_budget, worth_telling
from autotune.config.task import check_workload
from autotune.errors import UsageError, did_you_mean
from autotune.keys import parse_amount, parse_key
from autotune.slices import Slice
from autotune.workload import (
    Arrays,
    Confidence,
    Dataset,
    Decode,
    Loss,
    Metric,
    Perturb,
    Sample,
    Task,
    Workload,
)
from hwprofiles.errors import TargetUnavailable
from hwprofiles.registry import find_target

if TYPE_CHECKING:
    import onnx
    import torch

    from autotune.search.progress import Progress

# Tables that are arguments of their own, and what targets tell.
_NAMED = {"name", "targets", "constraints", "budget", "workload", "search", "families", "left_out"}


def optimize(
    model: Path | str | onnx.ModelProto | torch.nn.Module,
    *,
    calibration: Sequence[Arrays],
    search: Dataset | Sequence[Sample],
    heldout: Dataset | Sequence[Sample],
    decode: Decode,
    metric: str | Metric | Mapping[str, str | Metric | Task] = "accuracy",
    slices: Sequence[Slice] | Mapping[str, Slice] = (),
    targets: Sequence[str] = ("local",),
    trials: int = 40,
    hours: float | None = None,
    constraints: Mapping[str, float | str] | None = None,
    budget: Mapping[str, float | str] | None = None,
    store: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    name: str = "workload",
    latency_inputs: Arrays | None = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] = (),
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    confidence: Confidence | None = None,
    perturbations: Mapping[str, Perturb] | None = None,
    encode: Callable[[str], Arrays] | None = None,
    train: Dataset | Sequence[Sample] | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Result:
    """Search for the smallest and fastest versions of `model` whose worst slice keeps its accuracy.

    The data are as in `Workload`; `search`, `heldout` and `train` may be plain sequences of `Sample`. `constraints`
    map metric keys to limits, as numbers in SI units or as text such as "10MB". `budget` does the same, and the
    search solves for the best recipe within it: `{"size_bytes": "10MB", "latency_p90": "8ms", "drop/worst": "1pt"}`; a
    cost without a target is meant for all of them. `options` are tables of a study file, e.g. `judge={"limit": 0.02}`
    or `search_options={"sampler": "tpe"}`. The study is recorded in `store`, by default autotune-runs/NAME/store.db,
    and the same call goes on with it. Without `progress` a bar is shown on stderr.

    Nothing is lost by an interrupt, nor by a target that goes away and does not come back, which raises
    `TargetUnavailable`; the same call goes on. A target that is not there when the study begins is left out of it, as
    `Result.config.left_out` says; with `all_targets=True` that is an error. Raises `UsageError` for an option that
    does not exist or a limit that cannot be, `DataError` for data that cannot be searched, `Infeasible` for a budget
    that no model of the space can meet, a `HardwareError` where no target is left.
    """
    config = _config(name, targets, trials, hours, constraints or {}, budget or {}, options)
    workload = Workload(
        model=model,
        search=search if isinstance(search, Dataset) else Dataset("search", search),
        heldout=heldout if isinstance(heldout, Dataset) else Dataset("heldout", heldout),
        calibration=calibration,
        decode=decode,
        metric=metric,
        slices=slices,
        latency_inputs=latency_inputs,
        example_inputs=example_inputs,
        dynamic_axes=dynamic_axes or {},
        name=name,
        confidence=confidence,
        perturbations=perturbations or {},
        encode=encode,
        train=train if train is None or isinstance(train, Dataset) else Dataset("train", train),
        loss=loss,
    )
    check_workload(workload, table=config.slices, floor=config.judge.floor)
    return Result.load(_run(config, workload, store, progress), workload, store)


def _config(
    name: str,
    targets: Sequence[str],
    trials: int,
    hours: float | None,
    constraints: Mapping[str, float | str],
    budget: Mapping[str, float | str],
    options: Mapping[str, Any],
) -> StudyConfig:
    known = {*StudyConfig.model_fields, "search_options"} - _NAMED
    for option in options:
        if option not in known:
            named = inspect.signature(optimize).parameters
            raise UsageError(f"optimize() has no option {option!r}; {did_you_mean(option, {*known, *named})}")
    tables = dict(options)
    search = {**tables.pop("search_options", {}), "trials": trials, "hours": hours}
    amounts = {}
    for text, value in constraints.items():
        amounts[text] = parse_amount(value, parse_key(text)) if isinstance(value, str) else value
        if problem := impossible(parse_key(text), amounts[text]):
            raise UsageError(f"optimize(): constraints: {problem}")
    found = [find_target(target) for target in targets]
    try:
        made = StudyConfig.model_validate(
            {
                "name": name,
                "targets": tuple(targets),
                "search": search,
                "constraints": amounts,
                "budget": read_budget(budget, found) if budget else {},
                **tables,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"optimize(): {place}: {first['msg']}") from error
    return made.with_families(worth_telling(families_of(found)))


def _run(
    config: StudyConfig,
    workload: Workload,
    store: str | Path | None,
    progress: Callable[[Progress], None] | None,
) -> StudyConfig:
    """The study as it ran: without targets that were not there when it began."""
    from autotune.search.study import Study

    with Study.open(config, workload, store=store) as study:
        if progress is not None:
            summary = study.run(progress, threading.Event())
        else:
            with ProgressView() as view:
                summary = study.run(view.update, threading.Event())
        ran = study.config
    if summary.gone:
        raise TargetUnavailable(
            f"{summary.gone}; {summary.trials} trials are recorded, the same call goes on with them"
        )
    return ran
