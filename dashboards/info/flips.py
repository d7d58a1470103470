"""The samples whose answer changed most, with what a person would look at."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from autotune.errors import DataError
from autotune.evaluation import Outcome
from autotune.trial import Trial
from dashboards.info.study import StudyStore, StudyView, evaluation_of


class Flip(NamedTuple):
    """One sample. `change` = candidate score - original score: negative is worse."""

    id: str
    original: str
    candidate: str
    label: str | None
    change: float
    display: bytes | str | None


class FlipInfo(NamedTuple):
    """The biggest flips of one trial in both directions, and how many there are in all."""

    trial: int
    dataset: str
    n: int
    worse: tuple[Flip, ...]
    better: tuple[Flip, ...]
    total_worse: int
    total_better: int


MOST = 12
LONGEST_ANSWER = 300  # characters of a prediction that is not a plain text


def flip_info(view: StudyView, store: StudyStore, number: int) -> FlipInfo | None:
    """None where the trial was not judged or its outcomes were not kept. Ties as the search breaks them."""
    trial: Trial = store.trial(number)
    evaluation = evaluation_of(trial, view.targets[0])
    if evaluation is None or not evaluation.outcomes:
        return None
    changed = [outcome for outcome in evaluation.outcomes if outcome.candidate_score != outcome.original_score]
    changed.sort(key=lambda outcome: (_change(outcome), outcome.id))
    worse = [outcome for outcome in changed if _change(outcome) < 0]
    better = [outcome for outcome in reversed(changed) if _change(outcome) > 0]

    return FlipInfo(
        trial=number,
        dataset=evaluation.dataset,
        n=evaluation.n,
        worse=tuple(_flip(store, outcome) for outcome in worse[:MOST]),
        better=tuple(_flip(store, outcome) for outcome in better[: MOST // 2]),
        total_worse=len(worse),
        total_better=len(better),
    )


def _flip(store: StudyStore, outcome: Outcome) -> Flip:
    label, display = _sample(store, outcome.id)
    return Flip(
        id=outcome.id,
        original=answer(outcome.original),
        candidate=answer(outcome.candidate),
        label=label,
        change=_change(outcome),
        display=display,
    )


def _sample(store: StudyStore, id_: str) -> tuple[str | None, bytes | str | None]:
    """Label and display, from what the search saved under "sample/ID": {"label": any, "png": base64, "text": text}.

    Every entry may be missing. Raises `DataError` for something else.
    """
    saved = store.meta(f"sample/{id_}")
    if saved is None:
        return None, None
    try:
        label = answer(saved["label"]) if "label" in saved else None
        display = base64.b64decode(saved["png"], validate=True) if "png" in saved else saved.get("text")
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"the store's saved sample {id_!r} cannot be read: {error}; run the study again") from error
    return label, display


def answer(prediction: Any) -> str:
    """A prediction as text; structures as compact JSON."""
    if isinstance(prediction, str):
        return prediction
    text = json.dumps(prediction, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_ANSWER else text[: LONGEST_ANSWER - 1] + "…"


def _change(outcome: Outcome) -> float:
    return outcome.candidate_score - outcome.original_score
