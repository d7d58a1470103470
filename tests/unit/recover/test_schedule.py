"""How large steps are: found by short tries, or given; relative to what they change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from autotune.errors import UsageError
from autotune.recover.batching import Batch
from autotune.recover.descent import Descent
from autotune.recover.nonfinite import NotFinite
from autotune.recover.patience import Patience
from autotune.recover.schedule import Clock, RateTest, Steps
from autotune.recover.settings import Progress, Settings
from tests.unit.recover.digit_net import with_tensors
from tests.unit.recover.test_training import SHORT, trained, weights_of, zeroed

FREE = replace(SHORT, learning_rate=None, steps=200, minutes=60.0)
BATCHES = [Batch({}, (), np.ones(1, np.float32))]


class Hill:
    """A pupil whose loss after some steps at a rate is the distance of that rate to the best one."""

    def __init__(self, best: float, breaks_at: float = 1.0) -> None:
        self.best, self.breaks_at = best, breaks_at
        self.rates: tuple[float, ...] = ()

    def learn(self, batches: list[Batch], rate: float) -> float:
        if rate >= self.breaks_at:
            raise NotFinite("loss", math.nan)
        self.rates = (*self.rates, rate)
        return 1.0

    def validate(self) -> float:
        return abs(float(np.log(self.rates[-1] / self.best)))

    def state(self) -> tuple[float, ...]:
        return self.rates

    def restore(self, state: tuple[float, ...]) -> None:
        self.rates = state


def outcome(pupil: Hill, start: float = 9.0, **changes: Any) -> tuple[float, int, float, list[Progress]]:
    """(the rate, steps, validation, what was told)."""
    settings, told = replace(FREE, **changes), list[Progress]()
    clock = Clock(settings)
    steps = Steps(pupil, clock, iter(lambda: BATCHES, None), told.append)
    value = RateTest(steps, settings).run(start).validation
    return clock.full, steps.taken, value, told


@pytest.mark.parametrize("best", [0.001, 0.003, 0.01, 0.03])
def test_the_best_rate_is_found_and_its_steps_are_kept(best: float) -> None:
    pupil = Hill(best)
    rate, steps, value, told = outcome(pupil)
    assert rate == best and value == 0.0
    assert pupil.rates == (best,) * 10  # what was learned at others is forgotten
    assert steps == len(told) and [each.step for each in told] == list(range(1, steps + 1))
    assert steps <= 41


def test_a_rate_that_gives_no_finite_numbers_is_not_taken() -> None:
    assert outcome(Hill(0.03, breaks_at=0.01))[0] == 0.003
    assert outcome(Hill(0.03, breaks_at=0.03))[0] == 0.01


def test_where_nothing_is_gained_the_lowest_rate_begins_anew() -> None:
    pupil = Hill(0.03)
    rate, _, value, _ = outcome(pupil, start=0.0)
    assert rate == 0.001 and value == 0.0 and pupil.rates == ()


def test_a_rate_that_is_given_or_too_few_steps_leave_no_tries() -> None:
    assert outcome(Hill(0.03), relative_rate=0.02)[:2] == (0.02, 0)
    assert outcome(Hill(0.03), learning_rate=0.5)[:2] == (0.5, 0)
    assert outcome(Hill(0.03), steps=100)[:2] == (0.003, 0)


def test_too_little_time_leaves_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))  # every look at the clock is a second
    monkeypatch.setattr("autotune.recover.schedule.monotonic", lambda: float(next(now)))
    rate, steps, value, _ = outcome(Hill(0.03), minutes=2.0)
    assert (rate, steps) == (0.003, 1) and np.isnan(value)
    assert outcome(Hill(0.03), minutes=60.0)[0] == 0.03


@pytest.mark.parametrize(
    ("losses", "best", "back", "over"),
    [
        ([0.5, 0.25], [True, True], [False, False], False),
        ([1.0, 1.0, 1.0, 1.0], [False] * 4, [False, True, False, False], True),  # half of the patience, then all of it
        ([0.996, 0.99], [True, True], [False, False], False),  # two that are little make one that counts
        ([0.996, 0.995], [True, True], [False, True], False),
        ([0.5, 1.01, 0.9], [True, False, False], [False, True, True], False),  # twice as bad; then half of the patience
    ],
)
def test_validation_says_when_to_go_back_and_when_to_end(
    losses: list[float], best: list[bool], back: list[bool], over: bool
) -> None:
    patience = Patience(replace(FREE, patience=4, least_gain=0.005), 1.0)
    looks = [patience.look(loss) for loss in losses]
    assert [look.best for look in looks] == best
    assert [look.back for look in looks] == back
    assert patience.over is over


def test_a_network_is_trained_at_a_rate_of_its_own() -> None:
    found = trained(zeroed(0.8), FREE)
    fixed = trained(zeroed(0.8), replace(FREE, relative_rate=0.001))
    assert found[-1].validation < 0.5 * fixed[-1].validation
    again = trained(zeroed(0.8), FREE)
    assert [c.step for c in again] == [c.step for c in found]
    assert all(np.array_equal(again[-1].tensors[name], array) for name, array in found[-1].tensors.items())


def scaled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function by weights of very different sizes: a convolution 1000 times larger, the next one smaller."""
    tensors = weights_of(model)
    change = {name: tensors[name] * np.float32(1000) for name in ("0.weight", "0.bias")}
    return with_tensors(model, {**change, "2.weight": tensors["2.weight"] / np.float32(1000)})


def test_relative_steps_do_not_depend_on_how_large_weights_are() -> None:
    """Relu lets factors through, so both networks answer alike; plain Adam does not train them alike."""
    settings = replace(FREE, relative_rate=0.01, steps=40)
    plain, odd = (trained(model, settings)[-1] for model in (zeroed(0.8), scaled(zeroed(0.8))))
    assert odd.validation == pytest.approx(plain.validation, rel=0.05)
    absolute = replace(FREE, learning_rate=1e-3, steps=40)
    plain, odd = (trained(model, absolute)[-1] for model in (zeroed(0.8), scaled(zeroed(0.8))))
    assert odd.validation != pytest.approx(plain.validation, rel=0.5)


def test_units_of_one_are_plain_adam() -> None:
    ours = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    descent, adam = Descent(ours, [torch.ones(()), torch.ones(())]), torch.optim.Adam(theirs, lr=0.01)
    for step in range(5):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            its.grad = mine.grad.clone()
        if step == 2:
            before = [parameter.detach().clone() for parameter in ours]
            state = descent.state()
            descent.step(0.5)
            descent.restore(state)
            for parameter, values in zip(ours, before, strict=True):
                parameter.data.copy_(values)
        descent.step(0.01)
        adam.step()
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, its, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relative_rate": 0.0}, "relative_rate is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"relative_rate": 0.1, "learning_rate": 0.1}, "exclude each other"),
    ],
)
def test_rates_out_of_range(change: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Settings(**change)  # type: ignore[arg-type]
