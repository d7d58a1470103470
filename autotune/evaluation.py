"""An Evaluation: the metric per slice of one artifact on one data set, paired with the original."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from hwprofiles.measurement import Estimate

Verdict = Literal["pass", "fail", "undecided", "insufficient"]
SliceKind = Literal["declared", "automatic", "perturbed", "intersection", "discovered"]
LOSSLESS = 0.01  # a drop that must have been detectable


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SliceResult(_Record):
    """One slice. `drop` = original - candidate on the same samples (positive: the candidate is worse).

    `shrunk_drop` is what is believed of the true drop: the measured one, pulled towards what the other slices lose as
    far as the data say that slices are alike (`judge.optimism`).
    `flips_worse` counts samples that the original got right and the candidate wrong; `flips_better` the
    reverse. For metrics without right and wrong, flips count changed predictions' per-sample scores going
    down or up. `p_value` is that of the exact McNemar test for right-or-wrong scores, of the paired t test
    for graded ones, of the paired bootstrap for metrics of the whole. `damage` is the mean divergence of the
    outputs from the original's on the probe samples of this slice, if known.
    """

    name: str  # "all", "font=serif", ...
    n: int
    original: Estimate
    candidate: Estimate
    drop: Estimate
    shrunk_drop: float
    flips_worse: int
    flips_better: int
    p_value: float | None = None  # of "no difference", paired, two sided
    q_value: float | None = None  # of "no loss", one sided, Benjamini-Hochberg over the slices that are large enough,
    # and divided by the evaluation's `share`
    verdict: Verdict = "undecided"
    needed: int | None = None  # about how many more samples would decide
    damage: float | None = None
    metric: str = ""  # "" is the evaluation's first metric; the slices of another one are named METRIC:SLICE
    kind: SliceKind = "declared"
    hypothesis: bool = False  # a discovered slice that fresh data have not confirmed
    limit: float | None = None  # the drop its verdict was judged against; None: the evaluation's
    detectable: float | None = None  # true drop that would have been found with 80 % power at this n and flip rate
    kl: Estimate | None = None  # mean divergence of the candidate's outputs from the original's, over all its samples
    kl_p99: float | None = None
    ece_original: float | None = None  # expected calibration error, 15 bins of equal mass; from 1,000 samples on
    ece_candidate: float | None = None
    ece_change: Estimate | None = None  # candidate - original, paired bootstrap
    overconfident_original: float | None = None  # share of samples that are wrong with a confidence of at least 0.9
    overconfident_candidate: float | None = None
    noise: float | None = None  # the largest |drop| of the original against itself
    within_noise: bool = False  # the drop is no larger than that

    @property
    def lossless(self) -> bool:
        """It passes, and a true drop of one point would have been found: only then may it be called that."""
        return self.verdict == "pass" and self.detectable is not None and self.detectable <= LOSSLESS


class Outcome(_Record):
    """One sample: what was predicted, by the original and by the candidate, and how good each was."""

    id: str
    original: Any
    candidate: Any
    original_score: float
    candidate_score: float
    original_confidence: float | None = None
    candidate_confidence: float | None = None
    divergence: float | None = None  # of the outputs, candidate from original


class Evaluation(_Record):
    """Judgement of one artifact on one data set. The first slice is always "all"."""

    artifact: str  # sha256 of the bytes that were run
    dataset: str  # "search" or "heldout"
    dataset_digest: str
    metric: str
    target: str  # where the outputs were computed
    n: int
    slices: tuple[SliceResult, ...]
    worst_slice: str  # the slice with the largest shrunk drop (floor on n applied)
    worst_drop: Estimate  # the largest true drop of any of them: the optimism of having looked at all is taken off
    limit: float  # the drop that the verdicts were judged against
    share: float = 1.0  # of the error that all models judged on these data may make together, for choosing among them
    worst_raw: Estimate | None = None  # the largest drop as measured, neither shrunk nor corrected
    warnings: tuple[str, ...] = ()  # why the verdicts may mean nothing: a metric that does not compare
    outcomes: tuple[Outcome, ...] = ()
    seconds: float = 0.0

    def slice(self, name: str) -> SliceResult:
        """Raises `KeyError` if there is no such slice."""
        for result in self.slices:
            if result.name == name:
                return result
        raise KeyError(name)
