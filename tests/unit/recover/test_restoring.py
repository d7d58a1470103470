"""Going back to earlier weights: the quantisers must not remember those that were left behind."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from autotune.recover import compensating
from autotune.recover.batching import Batch, Batches
from autotune.recover.loop import _Pupil
from autotune.recover.settings import Settings
from autotune.techniques.rounding import Method
from tests.unit.recover.digit_net import digits, inputs_of
from tests.unit.recover.test_fake import knowing, roundings

SETTINGS = Settings(batch=64)
FAR, NEAR = 0.1, 0.003  # rates


def pupil_of(method: Method, folder: Path) -> _Pupil:
    """The network for digits with all its layers in 4 bits."""
    found = digits()
    made = knowing(found.model, {"image": inputs_of(found.train)["image"][:32]}, folder, method)
    layers, student = list(made.source.layers.values()), found.ingested.model
    decisions, known = {layer.name: "w4-b32-load" for layer in layers}, roundings(made, method)
    validation = list(Batches(found.validation, 300, shuffle=False))
    return _Pupil(student, student, layers, decisions, {}, validation, SETTINGS, None, known, None, 0)


@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_what_is_restored_learns_as_it_did_at_first(
    method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensating, "_WORK", 1)  # rounded anew as seldom as a wide layer
    pupil, lessons = pupil_of(method, tmp_path), lesson()
    begin = pupil.state()
    pupil.remember()
    first = [pupil.learn(step, lessons, NEAR) for step in range(1, 5)]
    go_far(pupil, lessons)
    pupil.restore(begin)
    assert [pupil.learn(step, lessons, NEAR) for step in range(1, 5)] == pytest.approx(first, rel=1e-4)
    go_far(pupil, lessons)
    pupil.go_back()
    assert pupil.learn(1, lessons, NEAR) == pytest.approx(first[0], rel=1e-4)


def go_far(pupil: _Pupil, lessons: list[Batch]) -> None:
    """Steps that are much too large, with a look at where they lead."""
    for step in range(1, 20):
        pupil.learn(step, lessons, FAR)
    pupil.validate(20)


def lesson() -> list[Batch]:
    return list(islice(Batches(digits().train, 64, shuffle=False), 1))
