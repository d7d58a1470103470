"""An Optuna journal beside our own records, so that a study opens in optuna-dashboard and in Optuna's plots.

Our store is the truth; the journal can be deleted and is written again. Journal files are lines of JSON: nothing is
ever unpickled.
"""

from __future__ import annotations

import datetime as dt
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.errors import DataError, DiskError
from autotune.recipe import NONE
from autotune.techniques.recover import NAME as RECOVER
from autotune.trial import Trial

NUMBER = "autotune:number"  # user attribute: our own trial number
STATES = {"complete": TrialState.COMPLETE, "rejected": TrialState.PRUNED, "failed": TrialState.FAIL}


def mirror(
    trials: Sequence[Trial],
    path: Path,
    study_name: str,
    directions: Sequence[str],
    metric_names: Sequence[str],
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Append to the journal at `path` every finished trial that it does not hold yet; returns how many.

    `metric_names` are the keys of `Trial.metrics` that are the objectives, in order, with `directions` "minimize" or
    "maximize". A parameter is `technique:layer`; `choices` are the choices of each, where they are known, and otherwise
    those seen in `trials` (Optuna's plots leave out a parameter whose choices grew meanwhile). Rejected trials become
    PRUNED, and so do complete ones that lack an objective. Calling it twice changes nothing.
    Raises `DataError` when the journal is broken or holds a study with other objectives, `DiskError` when it cannot
    be written.
    """
    finished = [trial for trial in trials if trial.state in STATES]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        study = _open(path, study_name, directions, metric_names)
        present = {t.user_attrs.get(NUMBER) for t in study.get_trials(deepcopy=False)}
        missing = [trial for trial in finished if trial.number not in present]
        distributions = _distributions(finished, study.get_trials(deepcopy=False), choices or {})
        for trial in missing:
            study.add_trial(_frozen(trial, metric_names, distributions))
    except OSError as error:
        raise DiskError(
            f"{path}: the Optuna journal cannot be written: {error}; it may be deleted at any time"
        ) from error
    return len(missing)


def _open(path: Path, study_name: str, directions: Sequence[str], metric_names: Sequence[str]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it may be the first to be asked: at the end of a baseline
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        known = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    except (ValueError, KeyError, AssertionError) as error:
        raise DataError(
            f"{path}: not a readable Optuna journal ({error}); delete it, it will be written again"
        ) from error
    if study_name not in known:
        study = optuna.create_study(
            storage=storage,
            study_name=study_name,
            directions=[StudyDirection[direction.upper()] for direction in directions],
        )
        with warnings.catch_warnings():  # experimental since 3.2, and what the dashboard labels its axes with
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(metric_names))
        return study
    study = optuna.load_study(storage=storage, study_name=study_name)
    have = [direction.name.lower() for direction in study.directions]
    if have != [direction.lower() for direction in directions] or study.metric_names != list(metric_names):
        raise DataError(
            f"{path}: holds study {study_name!r} with objectives {study.metric_names} {have}, not "
            f"{list(metric_names)} {list(directions)}; delete the file, it will be written again"
        )
    return study


def _distributions(
    trials: Sequence[Trial], mirrored: Sequence[FrozenTrial], choices: Mapping[str, Sequence[str]]
) -> dict[str, CategoricalDistribution]:
    """One distribution per parameter: the given choices, then those that the journal and the trials have besides."""
    found: dict[str, dict[str, None]] = {name: dict.fromkeys(values) for name, values in choices.items()}
    for frozen in mirrored:
        for name, distribution in frozen.distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                found.setdefault(name, {}).update(dict.fromkeys(str(c) for c in distribution.choices))
    for trial in trials:
        for name, choice in _decided(trial).items():
            found.setdefault(name, {NONE: None})[choice] = None
    return {name: CategoricalDistribution(list(values)) for name, values in found.items()}


def parameter(technique: str, layer: str) -> str:
    """The name of a decision as an Optuna parameter."""
    return f"{technique}:{layer}"


def _frozen(
    trial: Trial, metric_names: Sequence[str], distributions: Mapping[str, CategoricalDistribution]
) -> FrozenTrial:
    decided = _decided(trial)
    params = {
        name: decided.get(name, NONE) for name in distributions if decided.get(name) or _has_none(distributions[name])
    }
    values = [trial.metrics[name].value for name in metric_names if name in trial.metrics]
    whole = len(values) == len(metric_names) and all(math.isfinite(v) for v in values)
    state = STATES[trial.state]
    if state == TrialState.COMPLETE and not whole:
        state = TrialState.PRUNED  # Optuna takes no complete trial with a missing objective
    frozen = create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params=params,
        distributions={name: distributions[name] for name in params},
        user_attrs=_attributes(trial),
    )
    started, finished = _time(trial.started_at), _time(trial.finished_at)
    if started is not None:
        frozen.datetime_start = started
    if finished is not None:
        frozen.datetime_complete = finished
    return frozen


def _decided(trial: Trial) -> dict[str, str]:
    """Parameter -> choice. Which weights were trained is no decision of the search: its names are those of files."""
    return {
        parameter(technique, layer): choice
        for technique, layers in trial.recipe.items()
        if technique != RECOVER
        for layer, choice in layers.items()
    }


def _has_none(distribution: CategoricalDistribution) -> bool:
    return NONE in distribution.choices


def _attributes(trial: Trial) -> dict[str, Any]:
    """What the dashboard shows beside the objectives."""
    attributes: dict[str, Any] = {NUMBER: trial.number, "proposer": trial.proposer}
    if trial.artifact is not None:
        attributes["artifact"] = trial.artifact.digest
    if trial.reason:
        attributes["reason"] = trial.reason
    if trial.failure is not None:
        attributes["failure"] = trial.failure.message
    for name, value in sorted(trial.metrics.items()):
        attributes[name] = [value.value, value.low, value.high]
    return attributes


def _time(text: str) -> dt.datetime | None:
    """Raises `DataError` where `text` is neither empty nor ISO 8601."""
    if not text:
        return None
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"trial time {text!r} is not ISO 8601") from error
