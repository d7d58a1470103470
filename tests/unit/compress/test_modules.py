"""Trial cuts of torch modules, without an export: what is believed, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning", reason="needs hw-autotune[torch-pruning]")

from autotune.compress.modules.tracing import NotFollowed, Tracing  # noqa: E402
from autotune.compress.modules.trial import TrialCut  # noqa: E402
from tests.contract import torch_modules as modules  # noqa: E402


def inputs(*shape: int) -> tuple[torch.Tensor]:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(2)),)


def test_what_goes_together_is_told_by_layer() -> None:
    tracing = Tracing(modules.prepared(modules.Concat()), inputs(*modules.IMAGE))
    found = {(m.layer, m.makes): m for m in tracing.members("second", range(12))}
    assert set(found) == {("second", True), ("third", False)}
    read = found["third", False]
    assert read.size == 20 and read.at.tolist() == list(range(8, 20)) and read.roots.tolist() == list(range(12))


def test_a_cut_copy_is_the_module_without_what_is_gone() -> None:
    module, given = modules.prepared(modules.Residual()), inputs(*modules.IMAGE)
    small = TrialCut(module, given).cut({"first": np.array([0, 5, 7]), "stem": np.array([1])})
    assert [small.first.weight.shape, small.second.weight.shape] == [(21, 15, 3, 3), (15, 21, 3, 3)]
    assert module.first.weight.shape == (24, 16, 3, 3)
    with torch.no_grad():
        module.second.weight[:, [0, 5, 7]] = 0
        module.first.weight[:, 1] = 0
        module.head.weight[:, 1] = 0
        torch.testing.assert_close(small(*given), module(*given), rtol=1e-4, atol=1e-5)


def test_the_number_of_heads_follows() -> None:
    module, given = modules.prepared(modules.Attention()), inputs(*modules.TOKENS)
    trial = TrialCut(module, given, count={"q": 6})
    small = trial.cut({"q": np.arange(8, 24)})
    assert (small.heads, small.q.weight.shape, small.o.weight.shape) == (4, (32, 24), (24, 32))
    assert [each.name for each in trial.attributes["q"]] == ["heads"]
    with pytest.raises(NotFollowed, match="sizes that do not follow a cut") as caught:
        TrialCut(module, given).cut({"q": np.arange(3)})
    said = str(caught.value)
    assert said.endswith("in the module itself fails; use route = 'graph' for it") and "invalid for input" not in said


class Stubborn(torch.nn.Module):
    """Two products, between which its inner part insists on a width."""

    class Inner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = torch.ones(len(x), 24, 24)
            return torch.bmm(x, weights)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = torch.nn.Linear(8, 24), Stubborn.Inner(), torch.nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(self.first(x)))  # type: ignore[no-any-return]


def test_the_part_and_the_operation_that_fail_are_named() -> None:
    with pytest.raises(NotFollowed) as caught:
        TrialCut(modules.prepared(Stubborn()), inputs(2, 5, 8)).cut({"first": np.arange(4)})
    assert str(caught.value) == (
        "its forward holds sizes that do not follow a cut: bmm in 'inner' fails; use route = 'graph' for it"
    )


def test_what_is_silently_different_is_refused() -> None:
    module = modules.prepared(modules.Mixing())
    with pytest.raises(NotFollowed, match="would compute something else"):
        TrialCut(module, inputs(*modules.IMAGE)).cut({"first": np.array([3])})


def test_examples_of_zeros_hide_nothing() -> None:
    module = modules.prepared(modules.Mixing())
    with torch.no_grad():
        module.first.bias.zero_()
        module.second.bias.zero_()
    with pytest.raises(NotFollowed, match="would compute something else"):
        TrialCut(module, (torch.zeros(modules.IMAGE),)).cut({"first": np.array([3])})


def test_a_module_may_be_particular_about_its_inputs() -> None:
    module = modules.prepared(modules.Particular())
    small = TrialCut(module, inputs(2, 24)).cut({"first": np.arange(4)})
    assert small.head.weight.shape == (4, 28)


def test_what_is_no_module_is_not_cut() -> None:
    tracing = Tracing(modules.prepared(modules.Residual()), inputs(*modules.IMAGE))
    with pytest.raises(NotFollowed, match="no module of its own"):
        tracing.members("nowhere", [0])
    with pytest.raises(NotFollowed, match="runs without gradients"):
        Tracing(modules.prepared(modules.Undifferentiable()), inputs(2, 24))


def test_an_answer_of_zeros_has_to_stay_zeros() -> None:
    with pytest.raises(NotFollowed, match="would compute something else"):
        TrialCut(modules.prepared(modules.Silent()), inputs(2, 24)).cut({"first": np.arange(4)})


def test_a_module_that_always_answers_zero_proves_nothing() -> None:
    with pytest.raises(NotFollowed, match="answers zero on the example inputs"):
        TrialCut(modules.prepared(modules.Silent(answers=False)), inputs(2, 24)).cut({"other": np.arange(2)})
