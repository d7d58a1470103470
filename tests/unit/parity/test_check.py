"""Parity on real devices: who agrees, and where a difference is born."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from autotune.errors import DataError
from autotune.parity import exposure
from autotune.parity.report import FLOAT64, Tolerance
from autotune.recipe import Recipe
from autotune.techniques.quantize import CHOICES
from hwprofiles.device import Device
from hwprofiles.errors import Failure
from tests.unit import zoo
from tests.unit.compress.assembling import assembler_of, offered
from tests.unit.parity.altered import Altered, Corrupted, compare, one, scaled

Devices = dict[str, Device]


def feeds(model: onnx.ModelProto, count: int = 3, size: int = 2) -> list[Any]:
    return [zoo.feeds(model, seed=seed, size=size) for seed in range(count)]


def stack_of_products(count: int = 5, width: int = 24) -> onnx.ModelProto:
    """MatMul + Relu, `count` times, with weights w0, w1, ..."""
    nodes = []
    for i in range(count):
        nodes.append(zoo.node("MatMul", [f"t{i}", f"layer{i}.weight"], [f"m{i}"], name=f"product{i}"))
        nodes.append(zoo.node("Relu", [f"m{i}"], [f"t{i + 1}"], name=f"relu{i}"))
    weights = {f"layer{i}.weight": zoo.weight(width, width, seed=i) for i in range(count)}
    return zoo.model_of(nodes, [zoo.floats("t0", "batch", width)], [f"t{count}"], weights)


def quantised_stack(width: int = 64) -> onnx.ModelProto:
    """A product in float32, then two with quantised inputs."""
    nodes = [zoo.node("MatMul", ["x", "w0"], ["a0"], name="first")]
    for i in (1, 2):
        nodes += [
            zoo.node("QuantizeLinear", [f"a{i - 1}", "s", "z"], [f"q{i}"], name=f"quantise{i}"),
            zoo.node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"], name=f"dequantise{i}"),
            zoo.node("MatMul", [f"d{i}", f"w{i}"], [f"a{i}"], name=f"product{i}"),
        ]
    weights = {f"w{i}": zoo.weight(width, width, seed=i) for i in range(3)}
    given = {**weights, "s": np.array(0.02, np.float32), "z": np.array(128, np.uint8)}
    return zoo.model_of(nodes, [zoo.floats("x", 200, width)], ["a2"], given)


def float_between_quantised() -> onnx.ModelProto:
    """A float convolution between DequantizeLinear and QuantizeLinear, whose weight suits no common scale: ONNX
    Runtime (1.31) quantises it per tensor behind the model's back."""
    weight = zoo.weight(8, 8, 3, 3)
    weight[0] *= 30
    nodes = [
        zoo.node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q0"),
        zoo.node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="d0"),
        zoo.node("Conv", ["xd", "conv.weight"], ["c"], name="conv", pads=[1] * 4),
        zoo.node("QuantizeLinear", ["c", "s2", "z"], ["cq"], name="q1"),
        zoo.node("DequantizeLinear", ["cq", "s2", "z"], ["y"], name="d1"),
    ]
    scales = {"s": np.array(0.03, np.float32), "s2": np.array(0.05, np.float32), "z": np.array(128, np.uint8)}
    return zoo.model_of(nodes, [zoo.floats("x", 1, 8, 16, 16)], ["y"], {**scales, "conv.weight": weight})


@pytest.mark.parametrize("name", ["conv_residual", "attention", "mlp", "lstm", "if_branches", "embedding"])
def test_one_and_two_threads_agree_with_float64(name: str, devices: Devices, folder: Path) -> None:
    model = getattr(zoo, name)()
    report = compare(model, feeds(model), {n: devices[n] for n in ("here", "two")}, folder)
    assert report.agrees is True and report.reference == FLOAT64 and report.samples == 3
    for target in report.targets:
        assert target.first is None and target.layers and not any(layer.diverges for layer in target.layers)
        assert all(layer.own is not None and layer.own < 1e-6 for layer in target.layers)
        assert all(output.distance is not None and output.distance < 1e-6 for output in target.outputs)
    assert report.pairs[0].distance is not None and report.pairs[0].distance < 1e-6
    assert "agree" in report.sentence


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_a_layer_that_computes_something_else_is_found(changed: int, devices: Devices, folder: Path) -> None:
    model = stack_of_products()
    faulty = Altered(devices["here"], scaled(f"layer{changed}.weight", 1.01))
    report = compare(model, feeds(model), {"here": devices["here"], "faulty": faulty}, folder, numbers=True)
    assert report.agrees is False
    assert one(report, "here").verdict == "agree" and one(report, "here").first is None
    target = one(report, "faulty")
    first = target.first
    assert target.verdict == "disagree" and first is not None and first.cause == "operator"
    where = first.where
    assert (where.node, where.op, where.layer, where.tensor) == (
        f"product{changed}", "MatMul", f"layer{changed}", f"m{changed}"
    )  # fmt: skip
    assert where.own == pytest.approx(0.01, rel=1e-3) and not first.only_when_fused
    assert all(i.distance is not None and i.distance < 1e-6 for i in first.inputs)
    assert bool(first.inputs) == (changed > 0)
    later = [layer for layer in target.layers if layer.index > where.index]
    assert all(layer.diverges and not layer.wrong for layer in later)  # carried, not born
    assert f"product{changed}" in first.explanation and "faulty" in target.sentence


def test_of_two_wrong_layers_the_first_is_named_and_the_second_is_marked(devices: Devices, folder: Path) -> None:
    model = stack_of_products()

    def change(proto: onnx.ModelProto) -> None:
        scaled("layer1.weight", 1.01)(proto)
        scaled("layer3.weight", 0.98)(proto)

    target = one(compare(model, feeds(model), {"faulty": Altered(devices["here"], change)}, folder), "faulty")
    assert target.first is not None and target.first.where.node == "product1"
    assert [layer.node for layer in target.layers if layer.wrong] == ["product1", "product3"]


def test_a_node_that_runs_other_than_written_is_found_on_the_real_runtime(devices: Devices, folder: Path) -> None:
    model = float_between_quantised()
    report = compare(model, feeds(model), {n: devices[n] for n in ("here", "plain")}, folder)
    assert one(report, "plain").verdict == "agree" and one(report, "plain").first is None
    first = one(report, "here").first
    assert one(report, "here").verdict == "disagree" and first is not None
    assert first.cause == "operator" and first.where.node == "conv" and first.where.layer == "conv"
    assert not report.pairs[0].equal


def test_what_appears_only_when_fused_is_said(devices: Devices, folder: Path) -> None:
    """ONNX Runtime makes one kernel of DequantizeLinear and MatMul, which rounds activations to 8 bits."""
    model = zoo.quantised_qdq()
    report = compare(model, feeds(model), {n: devices[n] for n in ("here", "plain")}, folder, numbers=True)
    assert one(report, "plain").verdict == "agree" and one(report, "plain").first is None
    target = one(report, "here")
    assert target.verdict == "disagree" and target.exposed_equal is False
    assert not any(layer.wrong for layer in target.layers)  # nothing is wrong where everything is shown
    assert target.first is not None and target.first.only_when_fused and target.first.cause == "operator"
    assert [name.split()[0] for name in target.first.nodes] == ["DequantizeLinear", "MatMul"]
    assert "only when fused" in target.first.explanation


def test_rounding_that_is_carried_is_not_called_a_wrong_layer(devices: Devices, folder: Path) -> None:
    """A change below the tolerance of a layer flips levels behind it: every node is right, and yet they differ."""
    model = quantised_stack()
    shaky = Altered(devices["here"], scaled("w0", 1 + 8e-5))
    report = compare(model, feeds(model, 2), {"shaky": shaky}, folder, numbers=True, tolerance=Tolerance(distance=1e-5))
    target = one(report, "shaky")
    assert target.verdict == "disagree" and not any(layer.wrong for layer in target.layers)
    first = target.first
    assert first is not None and first.cause == "rounding" and first.where.node == "quantise1"
    assert first.where.kind == "levels" and first.where.flipped > 1e-3 and first.where.own == 0.0
    assert "No node is wrong" in first.explanation and "rounding does not fade" in first.explanation


def test_an_overflow_is_a_divergence_at_once(devices: Devices, folder: Path) -> None:
    nodes = [
        zoo.node("Mul", ["x", "large"], ["big"], name="grow"),
        zoo.node("Cast", ["big"], ["half"], name="narrow", to=TensorProto.FLOAT16),
        zoo.node("Cast", ["half"], ["y"], name="widen", to=TensorProto.FLOAT),
    ]
    model = zoo.model_of(nodes, [zoo.floats("x", 4)], ["y"], {"large": np.array(1e6, np.float32)})
    report = compare(model, [{"x": np.array([1e-3, 2, -3, 1e-2], np.float32)}], {"plain": devices["plain"]}, folder)
    target = one(report, "plain")
    assert target.verdict == "disagree" and "2 elements are NaN or infinite" in target.outputs[0].mismatch
    assert target.first is not None and target.first.where.node == "narrow" and target.first.where.distance is None
    assert target.first.where.mismatch


def test_nan_on_both_sides_is_the_same_answer(devices: Devices, folder: Path) -> None:
    model = zoo.model_of([zoo.node("Log", ["x"], ["y"])], [zoo.floats("x", 3)], ["y"], {})
    report = compare(model, [{"x": np.array([1.0, -1.0, 0.0], np.float32)}], {"here": devices["here"]}, folder)
    assert report.agrees is True


def test_without_a_float64_reference_targets_are_compared_with_the_first(devices: Devices, folder: Path) -> None:
    nodes = [
        zoo.node("MatMul", ["x", "w0"], ["a"], name="before"),
        zoo.node("RandomNormalLike", ["a"], ["noise"], seed=3.0, scale=1e-30, name="noise"),
        zoo.node("Add", ["a", "noise"], ["b"], name="sum"),
        zoo.node("MatMul", ["b", "w1"], ["y"], name="after"),
    ]
    weights = {"w0": zoo.weight(8, 8), "w1": zoo.weight(8, 8, seed=1)}
    model = zoo.model_of(nodes, [zoo.floats("x", 2, 8)], ["y"], weights)
    faulty = Altered(devices["here"], scaled("w1", 1.1))
    report = compare(model, feeds(model), {"here": devices["here"], "faulty": faulty}, folder, numbers=True)
    assert report.reference == "here" and "no float64 reference: op RandomNormalLike" in report.reference_note
    assert one(report, "here").verdict == "agree" and "stands in" in one(report, "here").sentence
    first = one(report, "faulty").first
    assert first is not None and first.where.node == "after" and first.cause == "operator"


def test_a_node_without_reference_is_to_blame_when_its_inputs_agree(devices: Devices, folder: Path) -> None:
    model = zoo.old_operator("gridsample16")
    faulty = Altered(devices["here"], scaled("grid", 0.9))
    report = compare(model, feeds(model), {"here": devices["here"], "faulty": faulty}, folder)
    first = one(report, "faulty").first
    assert report.reference == "here" and first is not None
    assert first.where.op == "GridSample" and first.where.own is None and first.cause == "operator"


@pytest.mark.parametrize("reference", ["float64", "target"])
def test_a_target_that_cannot_run_it_is_recorded_and_the_others_go_on(
    reference: str, devices: Devices, folder: Path
) -> None:
    model = zoo.mlp() if reference == "float64" else zoo.old_operator("gridsample16")
    given = {"broken": Corrupted(devices["here"], lambda _: None), "here": devices["here"], "two": devices["two"]}
    missing = {"gone": Failure(kind="unavailable", stage="open", message="no route to host")}
    report = compare(model, feeds(model), given, folder, missing=missing)
    assert [t.target for t in report.targets] == ["broken", "here", "two", "gone"]
    broken, gone = one(report, "broken"), one(report, "gone")
    assert broken.verdict == "not compared" and broken.failure is not None and broken.failure.kind == "bad_model"
    assert gone.verdict == "not compared" and "no route to host" in gone.sentence
    assert one(report, "here").verdict == one(report, "two").verdict == "agree"
    assert report.agrees is None and "broken and gone could not be compared" in report.sentence
    assert report.reference == (FLOAT64 if reference == "float64" else "here")
    assert [(pair.one, pair.other) for pair in report.pairs] == [("here", "two")]


def test_nothing_that_runs_is_a_report_too(devices: Devices, folder: Path) -> None:
    model = zoo.custom_domain()
    report = compare(model, feeds(model), {"here": devices["here"]}, folder)
    assert report.agrees is None and one(report, "here").failure is not None and not report.pairs


def test_chunks_of_any_size_find_the_same(devices: Devices, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stack_of_products()
    faulty = {"faulty": Altered(devices["plain"], scaled("layer2.weight", 1.02))}
    whole = one(compare(model, feeds(model), faulty, folder), "faulty")
    cut = exposure.chunks
    made: list[int] = []

    def small(*arguments: Any) -> list[exposure.Chunk]:
        found = cut(*arguments, limit=500)
        made.append(len(found))
        return found

    monkeypatch.setattr(exposure, "chunks", small)
    parts = one(compare(model, feeds(model), faulty, folder), "faulty")
    assert made[0] > 3 and parts.first == whole.first and parts.layers == whole.layers


@pytest.mark.parametrize("name", ["conv_residual", "convolutions", "mlp", "attention", "embedding"])
def test_artifacts_are_what_their_graph_says(name: str, devices: Devices, folder: Path, tmp_path: Path) -> None:
    """Every format that our dialect writes runs as float64 says, but for activations that MatMulNBits may round."""
    model = getattr(zoo, name)()
    made = assembler_of(model, zoo.feeds(model), tmp_path)
    for choice in CHOICES:
        decisions = {layer: choice for layer, choices in offered(made).items() if choice in choices}
        if not decisions:
            continue
        data = made.assemble(Recipe({"quantize": decisions}))
        report = compare(data, feeds(model, 2), {"here": devices["here"]}, folder, numbers=True)
        target = one(report, "here")
        assert report.reference == FLOAT64
        if "MatMulNBits" in {layer.op.rpartition(".")[2] for layer in target.layers}:
            assert target.first is not None and target.first.cause == "rounding", (choice, target.first)
            assert target.first.where.op.endswith("MatMulNBits") and "accuracy_level" in target.first.explanation
            assert target.outputs[0].distance is not None and target.outputs[0].distance < 0.02
        else:
            assert target.verdict == "agree" and target.first is None, (choice, target.first)
        assert set(decisions) <= {layer.layer for layer in target.layers}, choice


def test_layers_of_an_artifact_have_their_names(devices: Devices, folder: Path, tmp_path: Path) -> None:
    model = zoo.conv_residual()
    made = assembler_of(model, zoo.feeds(model), tmp_path)
    decisions = {layer: "int8-static" for layer, choices in offered(made).items() if "int8-static" in choices}
    data = made.assemble(Recipe({"quantize": decisions}))
    target = one(compare(data, feeds(model, 1), {"here": devices["here"]}, folder), "here")
    named = {layer.layer for layer in target.layers if layer.op in ("Conv", "com.microsoft.MatMulIntegerToFloat")}
    assert named == set(decisions)


def test_integers_are_compared_one_by_one(devices: Devices, folder: Path) -> None:
    nodes = [zoo.node("MatMul", ["x", "w"], ["m"]), zoo.node("ArgMax", ["m"], ["y"], axis=1)]
    model = zoo.model_of(nodes, [zoo.floats("x", 50, 8)], ["y"], {"w": zoo.weight(8, 6)}, kind=TensorProto.INT64)

    def shift(proto: onnx.ModelProto) -> None:
        array = zoo.weight(8, 6)
        array[:, 0] += 1
        proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "w"))

    given = {"here": devices["here"], "faulty": Altered(devices["here"], shift)}
    report = compare(model, feeds(model), given, folder)
    good, bad = one(report, "here").outputs[0], one(report, "faulty").outputs[0]
    assert good.kind == bad.kind == "exact" and good.agrees and not bad.agrees
    assert good.rows == 150 and bad.agreement is not None and 0 < bad.agreement.value < 1


def test_no_sample_is_begun_when_the_time_is_over(devices: Devices, folder: Path) -> None:
    model = zoo.mlp()
    report = compare(model, feeds(model, 5), {"here": devices["here"]}, folder, seconds=0.0)
    assert report.samples == 1 and one(report, "here").outputs[0].rows == 2 and report.agrees is True
    assert compare(model, feeds(model, 5), {"here": devices["here"]}, folder, seconds=1e6).samples == 5


def test_inputs_that_do_not_fit_are_refused(devices: Devices, folder: Path) -> None:
    model = zoo.mlp()
    with pytest.raises(DataError, match="rename the inputs"):
        compare(model, [{"z": np.zeros((1, 16), np.float32)}], {"here": devices["here"]}, folder)
    with pytest.raises(DataError, match="at least one sample"):
        compare(model, [], {"here": devices["here"]}, folder)
    with pytest.raises(DataError, match="not an ONNX file"):
        compare(b"nonsense" * 10, feeds(model), {"here": devices["here"]}, folder)
