"""A judgement in plain words, for the screen and for pages. Every sentence says only what the numbers carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from autotune.evaluation import Evaluation, SliceResult
from autotune.judge.intervals import ONE_SIDED
from autotune.judge.models import ModelJudgement
from autotune.slices import ALL
from autotune.store import HeldoutUse
from autotune.trial import Trial
from hwprofiles.measurement import Estimate

_NAMED = 4  # slices in one sentence
_UNJUDGED = 10  # of those that were not judged

_DATA = {"heldout": "held-out"}


def sentences(judgement: ModelJudgement) -> list[str]:
    """The verdict first, then what a careful reader has to know."""
    lines = [verdict_sentence(judgement)]
    for evaluation in judgement.evaluations:
        lines += evaluation_sentences(evaluation)
        noise = judgement.noise.get(evaluation.dataset)
        if noise is not None:
            lines.append(noise.sentence)
    return lines


def verdict_sentence(judgement: ModelJudgement) -> str:
    """What the exit code says, and because of which slices."""
    limit = judgement.limit
    deciding = [_Placed(r, e.dataset) for e in judgement.evaluations for r in judgement.deciding_of(e)]
    several = len(judgement.evaluations) > 1
    failing = sorted((each for each in deciding if each.result.verdict == "fail"), key=lambda each: -each.drop)
    if failing:
        told = "; ".join(
            f"{each.name(several)} loses {loss(each.result.drop)}, {points(_limit(each.result, limit))} allowed"
            f"{_why(each.result, limit)}"
            for each in failing[:_NAMED]
        )
        verb = "loses" if len(failing) == 1 else "lose"
        count = _of(judgement, failing, deciding)
        return f"Fails: {count} {verb} more than allowed: {told}{_more(failing)}{_not_judged(judgement)}."
    open_ = [each for each in deciding if each.result.verdict in ("undecided", "insufficient")]
    if open_:
        open_.sort(key=lambda each: (each.result.needed is None, each.result.needed or 0))
        told = "; ".join(each.name(several) + _open(each.result, judgement.floor) for each in open_[:_NAMED])
        passed = _of(judgement, [each for each in deciding if each not in open_], deciding)
        return (
            f"Undecided: {passed} pass, none fails; the data do not decide for {told}{_more(open_)}"
            f"{_not_judged(judgement)}."
        )
    subject = "the slice certainly loses" if len(deciding) == 1 else f"{_all(judgement, deciding)} certainly lose"
    return (
        f"Passes: {subject} no more than allowed ({points(limit)} points where nothing else is said)"
        f"{_not_judged(judgement)}."
    )


def evaluation_sentences(evaluation: Evaluation) -> list[str]:
    """The whole, the worst slice, flips, noise and confidence on one data set."""
    whole = evaluation.slices[0]
    data = _data(evaluation.dataset)
    lines = [f"WARNING: on the {data} data {each}." for each in evaluation.warnings]
    lines += [
        f"On {whole.n:,} {data} samples {evaluation.metric} goes from {percent(whole.original.value)} to "
        f"{percent(whole.candidate.value)}, a drop of {loss(whole.drop)}; {_count(whole.flips_worse, 'sample')} got "
        f"worse, {whole.flips_better} better."
    ]
    if len(evaluation.slices) > 1 and evaluation.worst_slice != ALL:
        raw = f", {points(evaluation.worst_raw.value)} as measured" if evaluation.worst_raw is not None else ""
        lines.append(
            f"The worst slice is {evaluation.worst_slice}: {loss(evaluation.worst_drop)}, corrected for having been "
            f"picked as the worst{raw}."
        )
    if evaluation.share < 1:
        level = percent(1 - 2 * ONE_SIDED * evaluation.share)
        lines.append(
            f"It is one of several models that are judged on these data and chosen by them, so it passes only where an "
            f"interval of {level} is within the limit, and q is {1 / evaluation.share:.3g} times as large as for one "
            "alone."
        )
    quiet = [r for r in evaluation.slices if r.within_noise and r.drop.value > 0]
    if quiet:
        told = ", ".join(_name(r) for r in quiet[:_NAMED])
        lines.append(f"The drop of {told}{_more(quiet)} is no larger than what the original loses against itself.")
    before, after = whole.overconfident_original, whole.overconfident_candidate
    if before is not None and after is not None:
        lines.append(f"Wrong and at least 90 % sure: {percent(before)} of the samples before, {percent(after)} now.")
    return lines


class _Placed(NamedTuple):
    """A result and the data set it is of."""

    result: SliceResult
    data: str

    @property
    def drop(self) -> float:
        return self.result.drop.value

    def name(self, several: bool) -> str:
        """With the data set, where there are several."""
        return _name(self.result) + (f" ({_data(self.data)})" if several else "")


def _of(judgement: ModelJudgement, some: Sequence[_Placed], deciding: Sequence[_Placed]) -> str:
    """2 of 6 slices; of two data sets each by itself, since they are cut alike."""
    if len(judgement.evaluations) == 1:
        return f"{len(some)} of {_count(len(deciding), 'slice')}"
    told = []
    for evaluation in judgement.evaluations:
        here, there = (sum(each.data == evaluation.dataset for each in group) for group in (some, deciding))
        told.append(f"{here} of {_count(there, 'slice')} of the {_data(evaluation.dataset)} data")
    return " and ".join(told)


def _all(judgement: ModelJudgement, deciding: Sequence[_Placed]) -> str:
    """all 6 slices that could be judged"""
    left = " that could be judged" if any(judgement.not_judged(each) for each in judgement.evaluations) else ""
    if len(judgement.evaluations) == 1:
        return f"all {len(deciding)} slices{left}"
    counts = [(sum(each.data == e.dataset for each in deciding), _data(e.dataset)) for e in judgement.evaluations]
    told = [f"{'the slice' if count == 1 else f'all {count} slices'} of the {data} data" for count, data in counts]
    return " and ".join(told) + left


def _not_judged(judgement: ModelJudgement) -> str:
    """Which slices are too small for a verdict, how many samples they have and how many are needed."""
    several = len(judgement.evaluations) > 1
    small = [_Placed(r, e.dataset) for e in judgement.evaluations for r in judgement.not_judged(e)]
    if not small:
        return ""
    told = ", ".join(each.name(several) + f" has {_count(each.result.n, 'sample')}" for each in small[:_UNJUDGED])
    rest = f" and {len(small) - _UNJUDGED} more" if len(small) > _UNJUDGED else ""
    needed = f" of the {judgement.floor:,} that a verdict needs" if judgement.floor is not None else ""
    return f"; not judged: {told}{rest}{needed}"


def _open(result: SliceResult, floor: int | None) -> str:
    """What a slice lacks for a verdict."""
    if result.verdict != "insufficient" or floor is None:
        return needs(result)
    return f" ({_count(result.n, 'sample')} of the {floor:,} that a verdict needs)"


def _data(name: str) -> str:
    return _DATA.get(name, name)


class HeldoutRecord(NamedTuple):
    """Every look at the held-out data: the trials judged on them in order, and how often the same one was."""

    trials: tuple[int, ...]
    looks: int  # at compressed models
    again: int  # of them, at a model that had been judged on the same data before


def record_of(trials: Sequence[Trial], uses: Sequence[HeldoutUse]) -> HeldoutRecord:
    """As the store wrote it down before each look; equal artifacts count as the trial that was first."""
    numbers = numbers_of(trials)
    seen: dict[tuple[str, str, object], int] = {}
    for use in uses:
        if use.purpose == "judge" and numbers.get(use.artifact) != 0:
            key = (use.artifact, use.dataset_digest, use.rules.get("target"))  # of several runtime families each looks
            seen[key] = seen.get(key, 0) + 1
    judged = tuple(dict.fromkeys(numbers[artifact] for artifact, *_ in seen if artifact in numbers))
    return HeldoutRecord(judged, sum(seen.values()), sum(count - 1 for count in seen.values()))


def numbers_of(trials: Sequence[Trial]) -> dict[str, int]:
    """Digest of an artifact -> the first trial that built it."""
    numbers: dict[str, int] = {}
    for trial in trials:
        for artifact in trial.artifacts:
            numbers.setdefault(artifact.digest, trial.number)
    return numbers


def record_sentence(trials: Sequence[Trial], uses: Sequence[HeldoutUse]) -> str:
    """How often held-out data were used, and what that makes of the choice; "" where nothing was written down."""
    record = record_of(trials, uses)
    if not record.looks:
        return ""
    times = "once" if record.looks == 1 else f"{record.looks} times"
    named = ", ".join(f"{number}" for number in record.trials)
    again = "; no model was judged on them twice" if not record.again else f"; {record.again} of these a second time"
    k = len(record.trials)
    choice = ""
    if 1 < k < 20:
        least = f"holds with 95 % for each and for the chosen one with at least {100 - 5 * k} %"
        looks = [use for use in uses if use.purpose == "judge" and numbers_of(trials).get(use.artifact) != 0]
        if all("share" in use.rules for use in looks):
            choice = (
                f" Verdicts, q values and the worst slice are corrected for the choice among these {k}; the interval "
                f"of a single slice {least}."
            )
        else:  # judged by a version that did not divide the error
            choice = f" The choice among these {k} is a comparison of {k}: an interval that {least}."
    return f"Held-out data were used {times}, for trial{'s' if k > 1 else ''} {named}{again}.{choice}"


def needs(result: SliceResult) -> str:
    """ " (about 1,200 more samples needed)", or nothing."""
    return f" (about {result.needed:,} more samples would)" if result.needed else ""


def loss(drop: Estimate) -> str:
    """3.2 points (1.9 to 4.5)"""
    return f"{points(drop.value)} points ({points(drop.low)} to {points(drop.high)})"


def points(value: float) -> str:
    """A fraction in percentage points, with one digit behind the point."""
    return f"{round(100 * value, 1) + 0.0:.1f}"  # + 0.0 makes -0.0 plain zero


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _why(result: SliceResult, limit: float) -> str:
    """A slice may fail although its drop as measured is below the limit: then it certainly loses, and much of it."""
    if result.q_value is None:
        return f" (certain although there are only {_count(result.n, 'sample')})"
    within = result.drop.value <= _limit(result, limit)
    return " (that it loses is certain, and it is more than half of what is allowed)" if within else ""


def _limit(result: SliceResult, otherwise: float) -> float:
    return otherwise if result.limit is None else result.limit


def _name(result: SliceResult) -> str:
    return "the whole" if result.name == ALL else result.name


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _more(results: Sequence[object]) -> str:
    rest = len(results) - _NAMED
    return f" and {rest} more" if rest > 0 else ""
