"""Judging artifacts of a study on its data: what the store knows already is read back, never computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from autotune.config import Family, JudgeTable, StudyConfig
from autotune.evaluation import Evaluation
from autotune.judge.metrics import ResolvedMetric
from autotune.judge.noise import NoiseFloor, noise_floor
from autotune.judge.predictions import Predictions, predict, predict_beside
from autotune.judge.spending import share
from autotune.judge.verdicts import SIGNIFICANT, judge
from autotune.recipe import Recipe
from autotune.search.prepare import Prepared
from autotune.search.targets import Targets
from autotune.store import Store
from autotune.workload import Dataset
from hwprofiles.device import Device


@dataclass(frozen=True)
class Judged:
    """A data set with everything that is fixed about judging on it. `key` names the rules of judging.

    `hypotheses` are slices that were discovered and not confirmed. With `heldout` every use is written down, and
    candidates run beside the original, which tells how far their outputs diverge.
    """

    dataset: Dataset
    masks: Mapping[str, np.ndarray]
    original: Predictions
    digest: str  # of the data
    key: str
    kinds: Mapping[str, str] = field(default_factory=dict)
    hypotheses: frozenset[str] = frozenset()
    noise: NoiseFloor | None = None
    heldout: bool = False


@dataclass(frozen=True)
class Judging:
    """Runs artifacts of one runtime family on data sets where that family judges, and compares them with the original
    there."""

    config: StudyConfig
    prepared: Prepared
    store: Store
    metrics: tuple[ResolvedMetric, ...]  # the first one is that of objectives
    targets: Targets
    family: Family
    _originals: dict[str, Predictions] = field(default_factory=dict)  # digest of the data -> answers of the original
    _digests: dict[int, tuple[Dataset, str]] = field(default_factory=dict)

    @property
    def metric(self) -> ResolvedMetric:
        return self.metrics[0]

    @property
    def target(self) -> str:
        """The target that judges."""
        return self.family.judge

    @property
    def first(self) -> bool:
        """Whether this is the family of the study's first target."""
        return self.family == self.prepared.families[0]

    @property
    def table(self) -> JudgeTable:
        """The rules of verdicts; a budget on `drop/worst` takes the place of `judge.limit`."""
        return self.config.judge.model_copy(update={"limit": self.config.drop_limit})

    def evaluate(self, digest: str, judged: Judged, candidate: Predictions | None = None) -> Evaluation:
        """Judgement of an artifact on a data set; from the store if it is there.

        `candidate`, what it answers on all samples in their order, is for a caller who knows it already. On held-out
        data a judgement stays the first one, also where rules have changed since. Raises `TargetPaused`.
        """
        target = self.target
        key = None if judged.heldout else judged.key
        found = self.store.find_evaluation(digest, judged.digest, target, fingerprint_key=key)
        if found is not None:
            return found
        part = 1.0
        if judged.heldout:
            part = self._share(digest, judged)
            rules = {**self.rules(judged), **self._place(), "share": part}
            self.store.use_heldout(digest, judged.digest, rules, purpose="judge")
        if candidate is None:
            candidate = self._answers(digest, judged)
        evaluation = judge(
            artifact=digest,
            target=target,
            dataset=judged.dataset,
            masks=judged.masks,
            metrics=self.metrics,
            original=judged.original,
            candidate=candidate,
            table=self.table,
            limits=self._limits(judged.masks),
            kinds=judged.kinds,
            hypotheses=judged.hypotheses,
            noise=judged.noise.drops if judged.noise is not None else None,
            dataset_digest=judged.digest,
            share=part,
        )
        if judged.heldout:
            evaluation = _confirmed(evaluation)
        self.store.add_evaluation(evaluation, fingerprint_key=judged.key)
        return evaluation

    def judged(
        self,
        dataset: Dataset,
        masks: Mapping[str, np.ndarray],
        *,
        hypotheses: frozenset[str] = frozenset(),
        heldout: bool = False,
    ) -> Judged:
        """The original's answers on a data set, and the noise in held-out ones: read back, or made now."""
        original = self.original(dataset)
        data = self.digest(dataset)
        kinds = dict(getattr(masks, "kinds", {}))
        found = Judged(dataset, masks, original, data, "", kinds, hypotheses, None, heldout)
        key = hashlib.sha256(repr(sorted(self.rules(found).items())).encode()).hexdigest()[:16]
        # Only what is reported needs it: on the search data it would delay the first trial and decide nothing.
        noise = self._noise(found) if heldout and self.config.judge.noise else None
        return Judged(dataset, masks, original, data, key, kinds, hypotheses, noise, heldout)

    def original(self, dataset: Dataset) -> Predictions:
        """What the original answers: from any judgement of it on these data, or made now. Raises `TargetPaused`."""
        data = self.digest(dataset)
        if data not in self._originals:
            baseline = self.baseline()
            found = self.store.find_evaluation(baseline, data, self.target, fingerprint_key=None)
            kept = _kept(found) if found is not None and found.outcomes else None
            self._originals[data] = kept or self.predict(baseline, dataset)
        return self._originals[data]

    def rules(self, judged: Judged) -> dict[str, Any]:
        """What a verdict is judged by, as JSON has it: limits, slices, metrics."""
        table = self.table.model_dump(include={"limit", "floor", "shrinkage", "batch"}, mode="json")
        return {
            **table,
            "limits": dict(sorted(self._limits(judged.masks).items())),
            "slices": sorted(judged.masks),
            "hypotheses": sorted(judged.hypotheses),
            "metrics": [metric.name for metric in self.metrics],
        }

    def predict(self, digest: str, dataset: Dataset) -> Predictions:
        """What an artifact answers on the samples of `dataset`. Raises `TargetPaused`."""
        with self.targets.using(self.target):
            return predict(
                self._device,
                self.store.artifact_path(digest),
                dataset,
                self.prepared.workload.decode,
                batch=self.config.judge.batch,
                workers=self.prepared.workers[self.target],
                confidence=self.prepared.workload.confidence,
            )

    def baseline(self) -> str:
        """Digest of the artifact of the empty recipe, which is built where it is not there yet."""
        dialect = self.family.dialect
        key = "baseline" if dialect == self.prepared.families[0].dialect else f"baseline/{dialect}"
        kept = self.store.meta(key)
        if isinstance(kept, str):
            return kept
        assembler = self.prepared.assemblers[dialect]
        artifact = self.store.save_artifact(partial(assembler.assemble_to, recipe=Recipe()), dialect)
        self.store.set_meta(key, artifact.digest)
        return artifact.digest

    @property
    def _device(self) -> Device:
        return self.prepared.devices[self.target]

    def _place(self) -> dict[str, str]:
        """Where a further family judges, for the record of uses of held-out data."""
        return {} if self.first else {"target": self.target}

    def _share(self, digest: str, judged: Judged) -> float:
        """Of the error that all models judged on these held-out data may make: by how many were looked at before.

        Every family has an equal part of it, as a model is chosen for what it does in all of them.
        """
        baseline = self.baseline()
        if digest == baseline:
            return 1.0  # nobody chooses it for what it does there
        looks = [
            u.artifact
            for u in self.store.heldout_uses()
            if (u.purpose, u.dataset_digest) == ("judge", judged.digest)
            and u.rules.get("target") == self._place().get("target")
        ]
        before = [artifact for artifact in dict.fromkeys(looks) if artifact != baseline]
        place = before.index(digest) if digest in before else len(before)
        return share(place, self.config.finalists.count) / len(self.prepared.families)

    def _answers(self, digest: str, judged: Judged) -> Predictions:
        baseline = self.baseline()
        if digest == baseline:
            return judged.original
        if not judged.heldout:
            return self.predict(digest, judged.dataset)
        with self.targets.using(self.target):
            _, candidate = predict_beside(
                self._device,
                self.store.artifact_path(baseline),
                self.store.artifact_path(digest),
                judged.dataset,
                self.prepared.workload.decode,
                batch=self.config.judge.batch,
                workers=self.prepared.workers[self.target],
                confidence=self.prepared.workload.confidence,
            )
        return candidate

    def _noise(self, judged: Judged) -> NoiseFloor:
        """Of the slices as they are now; measured once per data and slices."""
        key = "/".join(("noise", judged.digest, *self._place().values()))
        kept = self.store.meta(key)
        if isinstance(kept, Mapping) and kept.get("slices") == sorted(judged.masks):
            return NoiseFloor.model_validate(kept["floor"])
        baseline, device = self.baseline(), self._device
        rules = {**self.rules(judged), **self._place()}
        self.store.use_heldout(baseline, judged.digest, rules, purpose="noise")
        with self.targets.using(self.target):
            floor = noise_floor(
                self.store.artifact_path(baseline),
                device,
                judged.dataset,
                judged.masks,
                self.metrics,
                judged.original,
                self.prepared.workload.decode,
                batch=self.config.judge.batch,
                workers=self.prepared.workers[self.target],
                work=self.store.folder / "work" / "noise",
            )
        self.store.set_meta(key, {"slices": sorted(judged.masks), "floor": floor.model_dump(mode="json")})
        return floor

    def _limits(self, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
        further = {f"{metric.name}:{name}" for metric in self.metrics[1:] for name in masks}
        return {name: limit for name, limit in self.config.slice_limits.items() if name in masks or name in further}

    def digest(self, dataset: Dataset) -> str:
        """Reading all inputs takes a while, so it is done once for every data set of the workload."""
        kept = self._digests.get(id(dataset))
        if kept is None:
            kept = self._digests[id(dataset)] = (dataset, dataset.digest())
        return kept[1]


def _confirmed(evaluation: Evaluation) -> Evaluation:
    """A discovered slice whose loss is certain on data that it was not found in is no hypothesis any more."""
    results = tuple(
        r.model_copy(update={"hypothesis": False})
        if r.hypothesis and (r.verdict == "fail" or (r.drop.value > 0 and _below(r.q_value, SIGNIFICANT)))
        else r
        for r in evaluation.slices
    )
    return evaluation.model_copy(update={"slices": results})


def _below(value: float | None, bound: float) -> bool:
    return value is not None and value < bound


def _kept(found: Evaluation) -> Predictions:
    """The original's answers as a judgement of it holds them."""
    outcomes = found.outcomes
    sure = tuple(o.original_confidence for o in outcomes if o.original_confidence is not None)
    return Predictions(
        ids=tuple(o.id for o in outcomes),
        predictions=tuple(o.original for o in outcomes),
        seconds=found.seconds,
        confidence=sure if len(sure) == len(outcomes) else None,
    )
