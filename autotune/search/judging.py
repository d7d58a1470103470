"""Judging artifacts of a study on its data: what the store knows already is read back, never computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autotune.config import StudyConfig
from autotune.evaluation import Evaluation
from autotune.judge.metrics import ResolvedMetric
from autotune.judge.predictions import Predictions, predict
from autotune.judge.verdicts import judge
from autotune.recipe import Recipe
from autotune.search.prepare import Prepared
from autotune.search.targets import Targets
from autotune.store import Store
from autotune.workload import Dataset


@dataclass(frozen=True)
class Judged:
    """A data set with everything that is fixed about judging on it. `key` names the rules of judging."""

    dataset: Dataset
    masks: Mapping[str, np.ndarray]
    original: Predictions
    digest: str  # of the data
    key: str


@dataclass(frozen=True)
class Judging:
    """Runs artifacts on data sets where the study judges, and compares them with the original."""

    config: StudyConfig
    prepared: Prepared
    store: Store
    metric: ResolvedMetric
    targets: Targets

    def evaluate(self, digest: str, judged: Judged) -> Evaluation:
        """Judgement of an artifact on a data set; from the store if it is there. Raises `TargetPaused`."""
        target = self.prepared.judge_target
        found = self.store.find_evaluation(digest, judged.digest, target, fingerprint_key=judged.key)
        if found is not None:
            return found
        candidate = judged.original if digest == self.baseline() else self.predict(digest, judged.dataset)
        evaluation = judge(
            artifact=digest,
            target=target,
            dataset=judged.dataset,
            masks=judged.masks,
            metric=self.metric,
            original=judged.original,
            candidate=candidate,
            table=self.config.judge,
            dataset_digest=judged.digest,
        )
        self.store.add_evaluation(evaluation, fingerprint_key=judged.key)
        return evaluation

    def judged(self, dataset: Dataset, masks: Mapping[str, np.ndarray]) -> Judged:
        """The original's predictions on a data set: read back from the baseline's judgement, or made now."""
        digest = self.baseline()
        rules = (self.config.judge.model_dump(include={"limit", "floor", "shrinkage", "batch"}), sorted(masks))
        key = hashlib.sha256(repr(rules).encode()).hexdigest()[:16]
        data = dataset.digest()
        found = self.store.find_evaluation(digest, data, self.prepared.judge_target, fingerprint_key=key)
        if found is not None and found.outcomes:
            predictions = tuple(outcome.original for outcome in found.outcomes)
            ids = tuple(outcome.id for outcome in found.outcomes)
            return Judged(dataset, masks, Predictions(ids, predictions, found.seconds), data, key)
        return Judged(dataset, masks, self.predict(digest, dataset), data, key)

    def predict(self, digest: str, dataset: Dataset) -> Predictions:
        """What an artifact answers on the samples of `dataset`. Raises `TargetPaused`."""
        with self.targets.using(self.prepared.judge_target):
            return predict(
                self.prepared.judge_device,
                self.store.artifact_path(digest),
                dataset,
                self.prepared.workload.decode,
                batch=self.config.judge.batch,
                workers=self.prepared.workers,
            )

    def baseline(self) -> str:
        """Digest of the artifact of the empty recipe, which is built where it is not there yet."""
        kept = self.store.meta("baseline")
        if isinstance(kept, str):
            return kept
        data = self.prepared.assembler.assemble(Recipe())
        artifact = self.store.save_artifact(data, self.prepared.assembler.dialect.name)
        self.store.set_meta("baseline", artifact.digest)
        return artifact.digest
