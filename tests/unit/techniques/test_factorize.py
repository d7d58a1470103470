"""Factors: the least error that their rank allows, the right shapes, and artifacts that run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import TrialFailure, UsageError
from autotune.recipe import Recipe
from autotune.techniques import factorize
from autotune.techniques.factorize import RIDGE, Factorize, factors, output_basis
from autotune.techniques.sparsify import Sparsify
from tests.unit import zoo
from tests.unit.techniques.edited import Feeds, choices, edited, infer, weights


def _inputs(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Correlated, of very different sizes: `[rows, width]`."""
    mixed = rng.standard_normal((rows, width)) * np.geomspace(0.01, 3, width)
    return mixed @ np.linalg.qr(rng.standard_normal((width, width)))[0] + 0.3


def _approximation(weight: np.ndarray, gram: np.ndarray | None, rank: int) -> np.ndarray:
    found = output_basis(weight, gram, rank)
    assert found["basis"].shape == (weight.shape[0], rank) and found["energies"].shape == (rank,)
    up, down = factors(weight, found["basis"], found["energies"], rank)
    assert up.shape == (weight.shape[0], rank) and down.shape == (rank, weight.shape[1])
    return up.astype(np.float64) @ down.astype(np.float64)


@given(st.integers(2, 24), st.integers(2, 24), st.integers(1, 60), st.integers(0, 2**16))
@settings(deadline=None, max_examples=120)
def test_the_error_is_the_tail_and_no_other_rank_is_better(outputs: int, inputs: int, rows: int, seed: int) -> None:
    """Against numpy's SVD in float64, also where the data span only some directions (rows < inputs)."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    x = _inputs(rng, rows, inputs)
    gram = (x.T @ x / rows).astype(np.float32)
    ridged = gram.astype(np.float64) + RIDGE * np.trace(gram) / inputs * np.eye(inputs)
    values, vectors = np.linalg.eigh(ridged)
    root = vectors * np.sqrt(np.maximum(values, 0))
    sizes = np.linalg.svd(weight @ root, compute_uv=False)
    left, plain_sizes, right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    full = np.square(sizes).sum()
    for rank in range(1, min(outputs, inputs) + 1):
        error = np.square((weight - _approximation(weight, gram, rank)) @ root).sum()
        plain = np.square((weight - (left[:, :rank] * plain_sizes[:rank]) @ right[:rank]) @ root).sum()
        assert error <= plain + 1e-9 * full
        assert error == pytest.approx(np.square(sizes[rank:]).sum(), rel=1e-3, abs=1e-9 * full)


@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 2**16))
@settings(deadline=None, max_examples=60)
def test_without_data_it_is_the_truncated_svd(outputs: int, inputs: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)
    sizes = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    full = np.square(sizes).sum()
    for rank in range(1, min(outputs, inputs) + 1):
        error = np.square(weight - _approximation(weight, None, rank)).sum()
        assert error == pytest.approx(np.square(sizes[rank:]).sum(), rel=1e-3, abs=1e-9 * full)


@pytest.mark.parametrize("shape", [(192, 192), (320, 160), (160, 320)])
@pytest.mark.parametrize("method", ["activation", "plain"])
def test_every_part_of_one_basis_is_the_best_of_its_rank(method: str, shape: tuple[int, int]) -> None:
    """One basis for all ranks, with activations as transformers have them: a few directions with a million times the
    energy of the others. Against numpy's SVD in float64; the tail is lost where anything on the way is float32."""
    rng = np.random.default_rng(3)
    inputs = shape[1]
    weight = rng.standard_normal(shape).astype(np.float32)
    x = rng.standard_normal((2000, inputs)) * np.geomspace(1000, 1, inputs).clip(2)
    x = x @ np.linalg.qr(rng.standard_normal((inputs, inputs)))[0] + rng.standard_normal(inputs)
    gram = (x.T @ x / len(x)).astype(np.float32) if method == "activation" else None
    told = np.eye(inputs) if gram is None else gram.astype(np.float64)
    ridge = 0.0 if gram is None else RIDGE * np.trace(told) / inputs
    root = np.linalg.cholesky(told + ridge * np.eye(inputs))
    sizes = np.linalg.svd(weight @ root, compute_uv=False)
    most = min(shape) // 2
    found = output_basis(weight, gram, most)
    np.testing.assert_allclose(found["energies"], np.square(sizes[:most]), rtol=1e-6)
    for rank in (1, 8, min(shape) // 4, most):
        up, down = factors(weight, found["basis"], found["energies"], rank)
        error = np.square((weight - up.astype(np.float64) @ down) @ root).sum()
        assert error == pytest.approx(np.square(sizes[rank:]).sum(), rel=1e-3)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
@pytest.mark.parametrize("rows", [0, 3, 100])
def test_full_rank_is_the_weight_itself(shape: tuple[int, int], rows: int) -> None:
    """Whatever the data show, even nothing."""
    rng = np.random.default_rng(5)
    weight = rng.standard_normal(shape).astype(np.float32)
    x = _inputs(rng, rows, shape[1]) if rows else np.zeros((1, shape[1]))
    gram = (x.T @ x / len(x)).astype(np.float32)
    np.testing.assert_allclose(_approximation(weight, gram, min(shape)), weight, atol=3e-6)


def _data(model: onnx.ModelProto) -> list[Feeds]:
    return [zoo.feeds(model, size=40, seed=seed) for seed in range(2)]


def _products(op: str) -> onnx.ModelProto:
    """Wide, tall and square, with a bias, in the three ways that a product is written."""
    nodes, constants = [], {}
    sizes = [48, 96, 40, 40]
    for i, (inner, outer) in enumerate(pairwise(sizes)):
        constants |= {f"w{i}": zoo.weight(inner, outer, seed=i), f"b{i}": zoo.weight(outer, seed=i)}
        if op == "MatMul":
            nodes += [
                zoo.node("MatMul", [f"t{i}", f"w{i}"], [f"p{i}"], name=f"l{i}"),
                zoo.node("Add", [f"p{i}", f"b{i}"], [f"t{i + 1}"]),
            ]
        else:
            if op == "transB":
                constants[f"w{i}"] = np.ascontiguousarray(constants[f"w{i}"].T)
            given = {"transB": 1} if op == "transB" else {}
            nodes.append(zoo.node("Gemm", [f"t{i}", f"w{i}", f"b{i}"], [f"t{i + 1}"], name=f"l{i}", **given))
    return zoo.model_of(nodes, [zoo.floats("t0", "batch", 48)], ["t3"], constants)


def _convolutions(dimensions: int = 2) -> onnx.ModelProto:
    """Stride, padding and dilation at a k x k; a 1 x 1 without bias; a depthwise and a grouped one."""
    ones, size = (1,) * dimensions, (9,) * dimensions
    constants = {
        "big.weight": zoo.weight(32, 24, *(3,) * dimensions), "big.bias": zoo.weight(32),
        "point.weight": zoo.weight(64, 32, *ones), "same.weight": zoo.weight(32, 64, *(2,) * dimensions),
        "deep.weight": zoo.weight(32, 1, *(3,) * dimensions), "grouped.weight": zoo.weight(32, 16, *ones),
    }  # fmt: skip
    nodes = [
        zoo.node(
            "Conv",
            ["x", "big.weight", "big.bias"],
            ["a"],
            pads=[2, *[1] * (2 * dimensions - 1)],
            strides=[2] * dimensions,
            dilations=[1, 2][:dimensions] if dimensions > 1 else [2],
        ),
        zoo.node("Conv", ["a", "point.weight"], ["b"]),
        zoo.node("Conv", ["b", "same.weight"], ["c"], auto_pad="SAME_UPPER"),
        zoo.node("Conv", ["c", "deep.weight"], ["d"], group=32, pads=[1] * 2 * dimensions),
        zoo.node("Conv", ["d", "grouped.weight"], ["y"], group=2),
    ]
    return zoo.model_of(nodes, [zoo.floats("x", "batch", 24, *size)], ["y"], constants)


MODELS = {
    "matmul": lambda: _products("MatMul"),
    "gemm": lambda: _products("Gemm"),
    "gemm_transposed": lambda: _products("transB"),
    "convolutions": _convolutions,
    "convolutions_1d": lambda: _convolutions(1),
    "residual": zoo.conv_residual,
    "attention": zoo.attention,
    "embedding": zoo.embedding,
    "shared": zoo.shared_weight,
    "opset_11": lambda: zoo.mlp(11),
}


@pytest.mark.parametrize("quantised", ["none", "int8-dynamic", "w8-load", "w4-b32"])
@pytest.mark.parametrize("name", MODELS)
def test_artifacts_compute_the_product_of_the_factors(name: str, quantised: str, tmp_path: Path) -> None:
    """The original graph with W replaced by up @ down must give what the factorised graph gives."""
    model, technique = MODELS[name](), Factorize(round_to=4)
    made = edited(model, technique, tmp_path, _data(model))
    feeds = zoo.feeds(model, size=5, seed=9)
    offered = choices(made, technique)
    assert offered or name in ("residual", "attention", "shared")
    for label, decisions in technique.uniform(offered):
        data = made.assemble(Recipe({"factorize": decisions}))
        onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
        constants = weights(made, Recipe({"factorize": decisions}))
        replaced = onnx.load_from_string(made.assemble(Recipe()))
        source = made.structured(Recipe({"factorize": decisions}))
        for layer in decisions:
            where = made.source.layers[layer]
            down, up = (constants[source.layers[part].weight] for part in source.parts[layer])
            if where.op == "Conv":
                whole = np.einsum("or,rihw->oihw" if down.ndim == 4 else "or,rih->oih", up.reshape(len(up), -1), down)
            else:
                whole = down @ up if where.output_axis == 1 else up @ down
            assert whole.shape == where.shape
            assert down.size + up.size < where.parameters
            tensor = next(t for t in replaced.graph.initializer if t.name == where.weight)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(whole, np.float32), where.weight))
        expected = infer(replaced, feeds)
        for output, value in infer(data, feeds).items():
            np.testing.assert_allclose(value, expected[output], rtol=1e-4, atol=1e-4)
        if quantised != "none":
            source = made.structured(Recipe({"factorize": decisions}))
            nodes = {node.name: node for node in source.nodes}
            able = [
                whole
                for whole in decisions
                if all(
                    made.dialect.offers(source.layers[part], quantised, nodes[node])
                    for part in source.parts[whole]
                    for node in source.layers[part].nodes
                )
            ]
            both = made.assemble(Recipe({"factorize": decisions, "quantize": dict.fromkeys(able, quantised)}))
            assert able or quantised not in ("w8-load", "w4-b32") or name.startswith(("conv", "res"))
            assert all(np.isfinite(value).all() for value in infer(both, feeds).values()), label


@pytest.mark.parametrize("model", [_products("MatMul"), _products("transB"), _convolutions(), _convolutions(1)])
def test_moments_of_the_parts_are_those_of_what_they_read(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Against moments collected by running the factorised model itself, on the first layer that was split."""
    technique = Factorize(ranks=[0.25])
    made = edited(model, technique, tmp_path, _data(model))
    layer = next(iter(choices(made, technique)))
    structure = Recipe({"factorize": {layer: "rank-25%"}})
    source = made.structured(structure)
    again = edited(onnx.load_from_string(made.assemble(structure)), Sparsify(), tmp_path / "again", _data(model))
    for part in source.parts[layer]:
        told = source.moments[part]
        weight = source.layers[part].weight
        seen = next(again.source.moments[n] for n, each in again.source.layers.items() if each.weight == weight)
        largest = np.abs(seen.gram).max()
        np.testing.assert_allclose(told.gram, seen.gram, atol=2e-4 * largest)
        np.testing.assert_allclose(told.mean, seen.mean, atol=2e-3 * np.sqrt(largest))


def test_activation_aware_factors_do_less_damage(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [zoo.node("MatMul", ["x", "w"], ["y"], name="l")]
    model = zoo.model_of(nodes, [zoo.floats("x", "batch", 64)], ["y"], {"w": zoo.weight(64, 128)})
    mixing = _inputs(rng, 64, 64)
    data = [{"x": (rng.standard_normal((300, 64)) @ mixing).astype(np.float32)} for _ in range(3)]
    damage = {}
    for method in ("activation", "plain"):
        made = edited(model, Factorize(method=method), tmp_path / method, data[:2])  # type: ignore[arg-type]
        found = infer(made.assemble(Recipe({"factorize": {"l": "rank-25%"}})), data[2])["y"]
        damage[method] = np.square(found - infer(model, data[2])["y"]).mean()
    assert damage["activation"] < 0.5 * damage["plain"]


def test_nodes_that_share_a_weight_share_its_factors(tmp_path: Path) -> None:
    nodes = [
        zoo.node("MatMul", ["x", "shared.weight"], ["a"], name="one"),
        zoo.node("Relu", ["a"], ["r"]),
        zoo.node("MatMul", ["r", "shared.weight"], ["y"], name="two"),
    ]
    model = zoo.model_of(nodes, [zoo.floats("x", "batch", 32)], ["y"], {"shared.weight": zoo.weight(32, 32)})
    technique = Factorize()
    made = edited(model, technique, tmp_path)
    ((layer, offered),) = choices(made, technique).items()
    assert offered == ("rank-25%",)  # half of a square layer's rank is as large as the layer
    recipe = Recipe({"factorize": {layer: "rank-25%"}})
    graph = onnx.load_from_string(made.assemble(recipe)).graph
    assert [node.op_type for node in graph.node] == ["MatMul", "MatMul", "Relu", "MatMul", "MatMul"]
    assert sorted(list(tensor.dims) for tensor in graph.initializer) == [[8, 32], [32, 8]]
    assert len(made.layers(recipe)[0].nodes) == 4


def test_what_cannot_be_factorised_is_told(tmp_path: Path) -> None:
    technique = Factorize()
    made = edited(_convolutions(), technique, tmp_path / "c", tell=False)
    reasons = {each.name: each.reason for each in technique.survey(made.original())}
    assert reasons == {
        "deep": "a convolution in 32 groups has no full matrix to factorise",
        "grouped": "a convolution in 2 groups has no full matrix to factorise",
    }
    made = edited(zoo.embedding(), technique, tmp_path / "e", tell=False)
    assert {each.name: each.reason for each in technique.survey(made.original())} == {
        "tok": "a table is looked up, not multiplied"
    }
    made = edited(zoo.attention(), Factorize(round_to=16), tmp_path / "a", tell=False)
    assert all("no smaller" in each.reason for each in Factorize(round_to=16).survey(made.original()))
    assert not choices(made, Factorize(round_to=16))


def test_ranks_are_multiples_and_offered_once(tmp_path: Path) -> None:
    technique = Factorize(ranks=[0.2, 0.25, 0.5, 0.75], round_to=24)
    made = edited(_products("MatMul"), technique, tmp_path, tell=False)
    assert choices(made, technique)["l0"] == ("rank-20%",)  # 24 x (48 + 96) < 48 x 96; so are 25 % and 50 %
    assert "l2" not in choices(made, technique)


def test_sparsify_and_split_names_go_together(tmp_path: Path) -> None:
    """A later decision on a layer that was split holds for both of its parts."""
    model = _products("MatMul")
    made = edited(model, Factorize(), tmp_path, _data(model))
    made.techniques["sparsify"] = Sparsify()
    found = weights(made, Recipe({"factorize": {"l0": "rank-50%"}, "sparsify": {"l0": "zeros-50%"}}))
    factors_ = [array for name, array in found.items() if "factor" in name]
    assert len(factors_) == 2 and all((array == 0).sum() == array.size // 2 for array in factors_)


def test_factors_are_computed_once_for_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _products("MatMul")
    calls = []

    def counting(weight: np.ndarray, gram: np.ndarray | None, most: int) -> dict[str, np.ndarray]:
        calls.append(weight.shape)
        return output_basis(weight, gram, most)

    monkeypatch.setattr(factorize, "output_basis", counting)
    first = edited(model, Factorize(), tmp_path, _data(model))
    files = [first.assemble(Recipe({"factorize": {"l0": f"rank-{p}%"}})) for p in (25, 50)]
    second = edited(model, Factorize(), tmp_path, _data(model))
    assert files == [second.assemble(Recipe({"factorize": {"l0": f"rank-{p}%"}})) for p in (25, 50)]
    assert len(calls) == 1
    edited(model, Factorize(method="plain"), tmp_path, _data(model)).assemble(Recipe({"factorize": {"l0": "rank-25%"}}))
    assert len(calls) == 2


def test_failures_name_the_layer(tmp_path: Path) -> None:
    made = edited(_products("MatMul"), Factorize(), tmp_path / "a", tell=False)
    with pytest.raises(TrialFailure, match="'l0': nothing is known about what it reads"):
        made.assemble(Recipe({"factorize": {"l0": "rank-25%"}}))
    with pytest.raises(UsageError, match="no choice 'half'"):
        made.assemble(Recipe({"factorize": {"l0": "half"}}))
    with pytest.raises(TrialFailure, match=r"'l2' is MatMul 40 x 40 now .* rank 32 saves nothing"):
        made.assemble(Recipe({"factorize": {"l2": "rank-75%"}}))
    made = edited(_convolutions(), Factorize(method="plain"), tmp_path / "b", tell=False)
    with pytest.raises(TrialFailure, match=r"'deep' is Conv 32 x 1 x 3 x 3 now .* 32 groups"):
        made.assemble(Recipe({"factorize": {"deep": "rank-25%"}}))


@pytest.mark.parametrize(
    "options",
    [
        {"ranks": [1.0]},
        {"ranks": [0.5, -1]},
        {"ranks": [0.9999999]},
        {"ranks": [0.5, 0.50000001]},
        {"ranks": "0.5"},
        {"round_to": 0},
        {"round_to": 2.5},
        {"round_to": True},
        {"method": "qr"},
    ],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="technique factorize"):
        Factorize(**options)  # type: ignore[arg-type]
