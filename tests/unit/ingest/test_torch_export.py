"""torch modules: exported once, every layer under its module's name, nothing left behind."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.compress.ingest import load_model
from autotune.errors import DataError, UsageError
from tests.unit.ingest.equivalence import run

torch = pytest.importorskip("torch", reason="torch is not installed (extra: torch)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: torch)")


class Net(torch.nn.Module):
    """One of each: Conv with BatchNorm, depthwise, transposed, Linear in a list, shared, attention, embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8))
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.up = torch.nn.ConvTranspose2d(8, 16, 2, stride=2)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(16, 16, bias=bias) for bias in (True, False))
        self.shared = torch.nn.Linear(16, 16)
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.embedding = torch.nn.Embedding(50, 16)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, image: Any, ids: Any) -> tuple[Any, Any]:
        x = self.up(self.depthwise(torch.relu(self.stem(image)))).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + torch.nn.functional.gelu(block(x))
        x = self.shared(torch.relu(self.shared(x)))
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.head(x.mean(1)), self.embedding(ids)


def test_inputs_by_name_are_inputs_by_place() -> None:
    module = Net().eval()
    image, ids = torch.randn(2, 3, 4, 4), np.zeros((2, 4), np.int64)
    named = load_model(module, example_inputs={"ids": ids, "image": image})
    placed = load_model(module, example_inputs=(image, ids))
    assert named.source_digest == placed.source_digest
    assert [value.name for value in named.model.graph.input] == ["image", "ids"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ids": torch.zeros(1, 4)}, "do not fit Net.forward: 'image' is missing, which comes before 'ids'; give it"),
        ({"imag": torch.zeros(1)}, "it has no positional parameter 'imag'; did you mean 'image'"),
        ({}, "needs example_inputs"),
        ("image", "example_inputs is of type str; give the positional arguments"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_at_once(given: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: object, **__: object) -> None:
        raise AssertionError("this takes long")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(UsageError) as caught:
        load_model(Net(), example_inputs=given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_layers_keep_module_names_and_axes_vary(capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path.cwd().iterdir())
    torch.manual_seed(0)
    module = Net()
    module.head.eval()
    inputs = (torch.randn(2, 3, 4, 4), torch.zeros(2, 4, dtype=torch.int64))
    axes = {"image": {0: "batch"}, "ids": {0: "batch", 1: "seq"}}
    loaded = load_model(module, example_inputs=inputs, dynamic_axes=axes)

    names = [layer.name for layer in loaded.inspection.layers]
    assert names == [
        "stem.0", "depthwise", "up", "blocks.0", "blocks.1", "shared", "attention", "attention.out_proj", "head",
        "embedding",
    ]  # fmt: skip
    assert len(loaded.inspection.layer("shared").nodes) == 2
    assert loaded.inspection.skipped == ()
    assert [p.training for p in (module, module.stem, module.head)] == [True, True, False]
    assert capfd.readouterr() == ("", "")
    assert sorted(Path.cwd().iterdir()) == before
    assert b"test_torch_export" not in loaded.model.SerializeToString()

    image, ids = torch.randn(3, 3, 4, 4), torch.arange(15).reshape(3, 5)
    expected = module.eval()(image, ids)
    found = run(loaded.model, {"image": image.numpy(), "ids": ids.numpy()})
    assert list(found) == ["output_0", "output_1"]
    for one, other in zip(expected, found.values(), strict=True):
        np.testing.assert_allclose(other, one.detach().numpy(), rtol=1e-4, atol=1e-5)


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        return self.fc(x)


def test_export_is_the_same_every_time() -> None:
    torch.manual_seed(0)
    module = Plain()
    first = load_model(module, example_inputs=[np.zeros((1, 8), np.float32)], dynamic_axes={"x": {0: "batch"}})
    second = load_model(module, example_inputs=[torch.randn(1, 8)], dynamic_axes={"x": {0: "batch"}})
    assert first.source_digest == second.source_digest
    assert [layer.name for layer in first.inspection.layers] == ["fc"]
    assert list(run(first.model, {"x": np.zeros((5, 8), np.float32)})["output"].shape) == [5, 4]


class Undecided(Plain):
    def forward(self, x: Any) -> Any:
        return self.fc(x) if x.sum() > 0 else x


class Fixed(Plain):
    def forward(self, x: Any) -> Any:
        return self.fc(x).reshape(2, 4)


@pytest.mark.parametrize("build", [Undecided, Fixed])
def test_what_torch_cannot_export_is_a_data_error_in_one_line(build: type[Plain]) -> None:
    with pytest.raises(DataError) as caught:
        load_model(build(), example_inputs=(torch.randn(2, 8),), dynamic_axes={"x": {0: "batch"}})
    assert str(caught.value).startswith(f"the export of {build.__name__}: ")
    assert "\n" not in str(caught.value)


def test_wrong_calls_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="needs example_inputs"):
        load_model(Plain())
    with pytest.raises(UsageError, match="did you mean 'x'"):
        load_model(Plain(), example_inputs=(torch.randn(2, 8),), dynamic_axes={"xx": {0: "batch"}})
    with pytest.raises(UsageError, match=r"do not fit Plain\.forward"):
        load_model(Plain(), example_inputs=(1, 2, 3))


def test_without_torch_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "onnxscript":
            raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")
        return real(name, *rest, **named)

    module = Plain()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'hw-autotune\[torch\]'"):
        load_model(module, example_inputs=(torch.zeros(1, 8),))
