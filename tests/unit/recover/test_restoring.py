"""Going back to earlier weights: the quantisers must not remember those that were left behind."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from autotune.recover import compensating
from autotune.recover.batching import Batch, Batches
from autotune.recover.formats import Formats
from autotune.recover.pupil import Pupil, pupil_of
from autotune.recover.settings import Settings
from autotune.techniques.rounding import Method
from tests.unit.recover.digit_net import digits, inputs_of
from tests.unit.recover.test_fake import knowing, roundings

SETTINGS = Settings(batch=64)
FAR, NEAR = 0.1, 0.003  # rates


def begun(method: Method, folder: Path) -> Pupil:
    """The network for digits with all its layers in 4 bits."""
    found = digits()
    made = knowing(found.model, {"image": inputs_of(found.train)["image"][:32]}, folder, method)
    layers, student = tuple(made.source.layers.values()), found.ingested.model
    formats = Formats(layers, {layer.name: "w4-b32-load" for layer in layers}, {}, roundings(made, method))
    return pupil_of(student, student, formats, Batches(found.validation, 300, shuffle=False), SETTINGS, None)


@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_what_is_restored_learns_as_it_did_at_first(
    method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensating, "_WORK", 1)  # rounded anew as seldom as a wide layer
    pupil, lessons = begun(method, tmp_path), lesson()
    begin, weights = pupil.state(), pupil.student.weights()
    first = [pupil.learn(lessons, NEAR) for _ in range(4)]
    go_far(pupil, lessons)
    pupil.restore(begin)
    assert [pupil.learn(lessons, NEAR) for _ in range(4)] == pytest.approx(first, rel=1e-4)
    go_far(pupil, lessons)
    pupil.student.put(weights)
    assert pupil.learn(lessons, NEAR) == pytest.approx(first[0], rel=1e-4)


def go_far(pupil: Pupil, lessons: list[Batch]) -> None:
    """Steps that are much too large, with a look at where they lead."""
    for _ in range(19):
        pupil.learn(lessons, FAR)
    pupil.validate()


def lesson() -> list[Batch]:
    return list(islice(Batches(digits().train, 64, shuffle=False), 1))
