"""A study as the report sees it: which trials there are, which count, in which keys they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from autotune.config import StudyConfig
from autotune.errors import DataError
from autotune.evaluation import Evaluation
from autotune.keys import WORST, parse_key
from autotune.pareto import front
from autotune.parity.report import ParityReport
from autotune.search.across import stored_across, words
from autotune.search.agreement import stored_parity
from autotune.search.drift import Drift, drifts
from autotune.store import HeldoutUse
from autotune.trial import Trial, Value


class StudyStore(Protocol):
    """What the report reads. `autotune.store.Store` fits, and anything else with these five."""

    def trials(self, *, outcomes: bool = False) -> list[Trial]:
        """All trials; without per-sample outcomes unless asked."""
        ...

    def trial(self, number: int) -> Trial:
        """One trial with its per-sample outcomes."""
        ...

    def meta(self, key: str) -> Any:
        """The JSON value saved under `key`, None if there is none. The report reads "inspection", "targets",
        "parity/DIGEST", "noise/DIGEST", "zeros/TARGET", "discovered" and "sample/ID".
        """
        ...

    def heldout_uses(self) -> list[HeldoutUse]:
        """Every use of held-out data, in order."""
        ...

    @property
    def config_json(self) -> str | None:
        """The study's configuration; None before it was saved."""
        ...


class Keys(NamedTuple):
    """The metric keys of one target, as text."""

    size: str
    ratio: str
    latency: str
    memory: str
    drop: str


class LayerFact(NamedTuple):
    """One layer of the original model. `parameters` is None where the study did not record it."""

    name: str
    op: str
    parameters: int | None


class StudyView(NamedTuple):
    """Everything the sections are computed from.

    `shown` are the trials that the maps show: the finalists, or while there are none some of the front, or while that
    is empty some of what the front would be without limits.
    `front` are numbers of trials on the front of (size, latency ratio on each target, worst drop) of the search.
    `timed` are the targets whose costs were measured, on hardware; `keys` are those of the first of them.
    """

    name: str
    description: str
    config: StudyConfig | None
    trials: tuple[Trial, ...]
    baseline: Trial | None
    targets: tuple[str, ...]
    timed: tuple[str, ...]
    keys: Keys
    limit: float
    front: frozenset[int]
    finalists: tuple[Trial, ...]
    shown: tuple[Trial, ...]
    layers: tuple[LayerFact, ...]
    skipped: tuple[tuple[str, str], ...]  # (layer, why it could not be searched)
    notes: tuple[str, ...]
    profiles: Mapping[str, Mapping[str, Any]]  # target -> what its profile says: label, policy, transport, ...
    parity: Mapping[int, ParityReport]  # finalist -> does it answer the same on every target?
    drifts: tuple[Drift, ...]
    elsewhere: Mapping[int, tuple[ParityReport, ...]] = {}  # the same of a finalist's artifacts in further dialects
    across: Mapping[int, tuple[str, ...]] = {}  # finalist -> how far the answers of its artifacts lie apart, in words

    @property
    def judged(self) -> tuple[Trial, ...]:
        """Compressed models whose loss is known: complete ones, and those rejected because of what was found."""
        wanted = ("complete", "rejected")
        return tuple(t for t in self.trials if t.number != 0 and t.state in wanted and self.keys.drop in t.metrics)


SHOWN_WITHOUT_FINALISTS = 5  # columns of the maps before any finalist is there


def read_study(store: StudyStore) -> StudyView:
    """Raises `DataError` when the store holds no trial or its saved configuration cannot be read."""
    trials = tuple(sorted(store.trials(), key=lambda trial: trial.number))
    if not trials:
        raise DataError("the study has no trial yet, so there is nothing to report; run it with 'autotune run'")
    config = _config(store.config_json)
    inspection = _inspection(store.meta("inspection"))
    targets = _targets(config, trials)
    timed = _timed(targets, trials)
    keys = keys_of(trials, timed[0])
    complete = [trial for trial in trials if trial.state == "complete"]
    on_front = _front(complete, keys, timed)
    finalists = tuple(sorted((t for t in complete if t.final and t.number != 0), key=lambda t: _size(t, keys)))
    return StudyView(
        name=config.name if config else "study",
        description=config.description if config else "",
        config=config,
        trials=trials,
        baseline=next((trial for trial in trials if trial.number == 0), None),
        targets=targets,
        timed=timed,
        keys=keys,
        limit=_limit(config, trials),
        front=frozenset(trial.number for trial in on_front),
        finalists=finalists,
        shown=finalists or _promising(trials, on_front, keys, timed),
        layers=_layers(inspection, trials),
        skipped=_skipped(inspection),
        notes=tuple(str(note) for note in inspection.get("notes", ())),
        profiles=_profiles(store.meta("targets")),
        parity=_parity(store, finalists),
        drifts=drifts(trials),
        elsewhere=_parity_elsewhere(store, finalists),
        across={t.number: tuple(words(stored_across(store, t))) for t in finalists if t.elsewhere},
    )


def keys_of(trials: Sequence[Trial], target: str) -> Keys:
    """The keys under which these trials keep the usual metrics; the drop may or may not name a target."""
    known = {key for trial in trials for key in trial.metrics}
    drop = f"drop/{WORST}"
    at_target = f"{drop}@{target}"
    return Keys(
        size="size_bytes",
        ratio=f"latency_ratio@{target}",
        latency=f"latency_p50@{target}",
        memory=f"memory_peak@{target}",
        drop=at_target if drop not in known and at_target in known else drop,
    )


def evaluation_of(trial: Trial, target: str, *, prefer: str = "heldout") -> Evaluation | None:
    """The judgement to show: on `prefer` data and `target` where there is one, else on what there is."""
    ranked = sorted(trial.evaluations, key=lambda e: (e.dataset != prefer, e.target != target))
    return ranked[0] if ranked else None


def best_known(trial: Trial, key: str) -> Value | None:
    """The final value where the trial is a finalist, else the search's."""
    return trial.final.get(key, trial.metrics.get(key))


def _size(trial: Trial, keys: Keys) -> float:
    value = trial.metrics.get(keys.size)
    return value.value if value else float(trial.artifact.size_bytes if trial.artifact else 0)


def _timed(targets: Sequence[str], trials: Sequence[Trial]) -> tuple[str, ...]:
    known = {key for trial in trials for key in trial.metrics}
    return tuple(target for target in targets if f"latency_ratio@{target}" in known) or (targets[0],)


def _profiles(saved: Any) -> Mapping[str, Mapping[str, Any]]:
    if saved is None:
        return {}
    if not isinstance(saved, dict) or not all(isinstance(profile, dict) for profile in saved.values()):
        raise DataError("the store's saved 'targets' must be a JSON object of objects; it is damaged")
    return saved


def _parity(store: StudyStore, finalists: Sequence[Trial]) -> dict[int, ParityReport]:
    found = {t.number: stored_parity(store, t.artifact.digest) for t in finalists if t.artifact is not None}
    return {number: report for number, report in found.items() if report is not None}


def _parity_elsewhere(store: StudyStore, finalists: Sequence[Trial]) -> dict[int, tuple[ParityReport, ...]]:
    found = {t.number: [stored_parity(store, artifact.digest) for artifact in t.artifacts[1:]] for t in finalists}
    return {number: tuple(filter(None, reports)) for number, reports in found.items() if any(reports)}


def _front(complete: Sequence[Trial], keys: Keys, timed: Sequence[str]) -> list[Trial]:
    used = (keys.size, *(f"latency_ratio@{target}" for target in timed), keys.drop)
    judged = [trial for trial in complete if all(key in trial.metrics for key in used)]
    return front(judged, [parse_key(key) for key in used])


def _promising(
    trials: Sequence[Trial], on_front: Sequence[Trial], keys: Keys, timed: Sequence[str]
) -> tuple[Trial, ...]:
    """A few points evenly along the front, from small to large."""
    members = [trial for trial in on_front if trial.number != 0]
    if not members:
        # Everything was rejected: what would be the front if the limits were not there?
        originals = {trial.number: trial for trial in trials if trial.number != 0 and trial.state == "rejected"}
        lifted = [trial.model_copy(update={"state": "complete"}) for trial in originals.values()]
        members = [originals[trial.number] for trial in _front(lifted, keys, timed)]
    ordered = sorted(members, key=lambda trial: _size(trial, keys))
    if len(ordered) <= SHOWN_WITHOUT_FINALISTS:
        return tuple(ordered)
    step = (len(ordered) - 1) / (SHOWN_WITHOUT_FINALISTS - 1)
    return tuple(ordered[round(i * step)] for i in range(SHOWN_WITHOUT_FINALISTS))


def _config(text: str | None) -> StudyConfig | None:
    if text is None:
        return None
    try:
        return StudyConfig.model_validate_json(text)
    except ValueError as error:
        raise DataError(f"the store's saved configuration cannot be read: {error}") from error


def _inspection(saved: Any) -> Mapping[str, Any]:
    """{"layers": [{name, op, parameters}], "skipped": [{name, reason}], "notes": [text]}, as the search saved it."""
    if saved is None:
        return {}
    if not isinstance(saved, dict):
        raise DataError(f"the store's saved 'inspection' must be a JSON object, not {type(saved).__name__}")
    return saved


def _targets(config: StudyConfig | None, trials: Sequence[Trial]) -> tuple[str, ...]:
    if config is not None and config.targets:
        return config.targets
    seen = dict.fromkeys(m.target for trial in trials for m in trial.measurements)
    return tuple(seen) or ("local",)


def _limit(config: StudyConfig | None, trials: Sequence[Trial]) -> float:
    if config is not None:
        return config.limits[f"drop/{WORST}"]
    limits = [evaluation.limit for trial in trials for evaluation in trial.evaluations]
    return limits[0] if limits else 0.01


def _layers(inspection: Mapping[str, Any], trials: Sequence[Trial]) -> tuple[LayerFact, ...]:
    """In order of execution: from the saved inspection, else from the first trial that lists its layers."""
    saved = inspection.get("layers", ())
    if saved:
        return tuple(LayerFact(str(row["name"]), str(row["op"]), int(row["parameters"])) for row in saved)
    listed = next((trial.layers for trial in trials if trial.layers), ())
    names = dict.fromkeys(outcome.layer for outcome in listed)
    for trial in trials:
        for choices in trial.recipe.values():
            names.update(dict.fromkeys(choices))
    return tuple(LayerFact(name, "", None) for name in names)


def _skipped(inspection: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(row["name"]), str(row["reason"])) for row in inspection.get("skipped", ()))
