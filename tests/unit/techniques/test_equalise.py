"""Scales between neighbours: the same function in float32, the published scales, less damage when rounded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.compress.zoo import FIRST_OPSETS, OPSETS, ZOO, build
from autotune.compress.zoo import feeds as zoo_feeds
from autotune.errors import TrialFailure, UsageError
from autotune.recipe import Recipe
from autotune.techniques.equalise import Equalise, folding, scales
from autotune.techniques.equalise.finding import find
from autotune.techniques.factorize import Factorize
from autotune.techniques.sparsify import Sparsify
from tests.unit import zoo
from tests.unit.techniques.edited import Anything, Feeds, choices, edited, infer, weights

STUDIES = Path(__file__).parents[3] / "studies"


def _same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: object = "") -> None:
    """Equal to float32 rounding, relative to the largest output."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 1e-5 * np.abs(value).max() + 1e-7, (what, name)


def _cases() -> list[Any]:
    return [(name, opset) for name in ZOO for opset in (FIRST_OPSETS.get(name, OPSETS[0]), OPSETS[-1])]


@pytest.mark.parametrize(("name", "opset"), _cases())
def test_the_function_stays_the_same(name: str, opset: int, tmp_path: Path) -> None:
    model, technique = build(name, opset), Equalise()
    data = [zoo_feeds(model, size=3, seed=seed) for seed in range(2)]
    made = edited(model, technique, tmp_path, data)
    offered = choices(made, technique)
    left_alone = {each.name for each in technique.survey(made.original())}
    assert not left_alone & offered.keys()
    expected = infer(made.assemble(Recipe()), data[0])
    recipes = [decisions for _, decisions in technique.uniform(offered)]
    rng = np.random.default_rng(0)
    recipes += [{unit: str(rng.choice(each)) for unit, each in offered.items()} for _ in range(2) if offered]
    for decisions in recipes:
        recipe = Recipe({"equalise": decisions})
        changed = made.assemble(recipe)
        onnx.checker.check_model(onnx.load_from_string(changed))
        assert changed != made.assemble(Recipe())
        _same(infer(changed, data[0]), expected, decisions)
        assert [node.op_type for node in onnx.load_from_string(changed).graph.node] == [
            node.op_type for node in onnx.load_from_string(made.assemble(Recipe())).graph.node
        ]


EXPECTED = {  # the first reader of each scaled tensor, and whether its activations can be scaled for their own sake
    "attention": {"attn.q": True, "attn.out": True},
    "depthwise_separable": {},
    "flatten": {"second": False, "hidden": True, "head": True},
    "fused_norm": {"up": True, "last": True},
    "decomposed_norm": {"up": True, "last": True},
    "gated_ffn": {"gate": True, "down": True},
    "shared_weight": {},
    "squeeze_excite": {"depthwise": False, "squeeze": True, "excite": True},
    "tied_embedding": {"down": True},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_units_are_found(name: str, tmp_path: Path) -> None:
    technique = Equalise()
    found = choices(edited(build(name, 20), technique, tmp_path, tell=False), technique)
    assert {unit: "awq" in each for unit, each in found.items()} == EXPECTED[name]


@pytest.mark.parametrize("name", ["encoder", "residual", "attention_computed_shapes", "flatten", "shared_weight"])
def test_a_product_in_front_of_everything_else(name: str, tmp_path: Path) -> None:
    model, technique = build(name, 17), Equalise(insert=True)
    data = [zoo_feeds(model, size=3, seed=seed) for seed in range(2)]
    made = edited(model, technique, tmp_path, data)
    folded = Equalise()
    folded.survey(made.original())
    offered = choices(made, technique)
    more = [unit for unit in offered if not folded.choices(made.source.layers[unit], Anything())]
    assert more or name in ("flatten", "shared_weight")  # all products of the former have a unit already
    assert all("cross-layer" not in offered[unit] for unit in more)
    expected = infer(made.assemble(Recipe()), data[0])
    plain = len(onnx.load_from_string(made.assemble(Recipe())).graph.node)
    for label, decisions in technique.uniform(offered):
        changed = made.assemble(Recipe({"equalise": decisions}))
        assert len(onnx.load_from_string(changed).graph.node) == plain + len(set(more) & set(decisions))
        _same(infer(changed, data[0]), expected, label)
        source = made.structured(Recipe({"equalise": decisions}))
        again = edited(onnx.load_from_string(changed), Equalise(), tmp_path / label, data)
        seen = {layer.weight: again.source.moments.get(layer.name) for layer in again.source.layers.values()}
        for layer in source.layers.values():
            told, found = source.moments.get(layer.name), seen[layer.weight]
            if told is not None and found is not None:
                np.testing.assert_allclose(told.gram, found.gram, rtol=1e-3, atol=1e-5 * np.abs(found.gram).max())


def _chain(seed: int = 0, *, act: str = "Relu", spread: float = 3.0, **attributes: Any) -> onnx.ModelProto:
    """Conv, depthwise, 1 x 1 and 1 x 1, whose channels differ in size by orders of magnitude."""
    rng = np.random.default_rng(seed)
    nodes, constants = [], {}
    shapes = {"a": (16, 3, 3, 3), "b": (16, 1, 3, 3), "c": (24, 16, 1, 1), "d": (8, 24, 1, 1)}
    x = "x"
    for name, shape in shapes.items():
        sizes = np.exp(rng.uniform(-spread, spread, shape[0])).astype(np.float32)
        constants |= {
            f"{name}.weight": zoo.weight(*shape, seed=seed) * sizes[:, None, None, None],
            f"{name}.bias": zoo.weight(shape[0], seed=seed) * sizes,
        }
        pads = {"pads": [1] * 4} if shape[2] == 3 else {}
        group = {"group": 16} if name == "b" else {}
        nodes.append(zoo.node("Conv", [x, f"{name}.weight", f"{name}.bias"], [f"{name}1"], name=name, **pads, **group))
        nodes.append(zoo.node(act, [f"{name}1"], [f"{name}2"], name=f"{name}.act", **attributes))
        x = f"{name}2"
    nodes.append(zoo.node("Identity", [x], ["y"], name="end"))
    return zoo.model_of(nodes, [zoo.floats("x", "batch", 3, 6, 6)], ["y"], constants)


def _normed(seed: int = 0, outliers: float = 30.0) -> onnx.ModelProto:
    """LayerNormalization with a few large channels in front of two products that read it."""
    rng = np.random.default_rng(seed)
    gamma = np.ones(64, np.float32)
    gamma[rng.choice(64, 4, replace=False)] = outliers
    constants = {
        "gamma": gamma, "beta": rng.standard_normal(64).astype(np.float32) * gamma,
        "w1": zoo.weight(64, 96, seed=seed), "w2": zoo.weight(64, 96, seed=seed + 1),
    }  # fmt: skip
    nodes = [
        zoo.node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="norm"),
        zoo.node("MatMul", ["n", "w1"], ["one"], name="first"),
        zoo.node("MatMul", ["n", "w2"], ["two"], name="second"),
    ]
    return zoo.model_of(nodes, [zoo.floats("x", "batch", 64)], ["one", "two"], constants)


@given(
    st.integers(0, 2**16),
    st.sampled_from([("Relu", {}), ("LeakyRelu", {"alpha": 0.2}), ("Identity", {})]),
    st.floats(0, 4),
)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cross_layer_makes_both_sides_equal(
    tmp_path: Path, seed: int, act: tuple[str, dict[str, float]], spread: float
) -> None:
    model, technique = _chain(seed, act=act[0], spread=spread, **act[1]), Equalise(kinds=["cross-layer"])
    assert not technique.needs_moments
    made = edited(model, technique, tmp_path, tell=False)
    offered = choices(made, technique)
    assert offered == dict.fromkeys("bcd", ("cross-layer",))
    recipe = Recipe({"equalise": dict.fromkeys("bcd", "cross-layer")})
    found = weights(made, recipe)
    for before, behind in (("a", "b"), ("b", "c"), ("c", "d")):
        written = np.abs(found[f"{before}.weight"]).max(axis=(1, 2, 3))
        across = np.abs(found[f"{behind}.weight"])
        read = across.max(axis=(1, 2, 3)) if behind == "b" else across.max(axis=(0, 2, 3))
        np.testing.assert_allclose(written, read, rtol=5e-3)
    feeds = zoo.feeds(model)
    _same(infer(made.assemble(recipe), feeds), infer(model, feeds))


def test_smooth_is_the_published_scale(tmp_path: Path) -> None:
    """Against the formula in float64, from the activations themselves."""
    model, technique = _normed(), Equalise()
    data = [zoo.feeds(model, size=50, seed=seed) for seed in range(2)]
    made = edited(model, technique, tmp_path, data)
    assert choices(made, technique) == {"first": ("smooth-25%", "smooth-50%", "smooth-75%", "awq")}
    seen = np.concatenate([infer(model, feeds, ["n"])["n"] for feeds in data]).astype(np.float64)
    size = np.sqrt(np.square(seen).mean(axis=0))
    before = weights(made, Recipe())
    largest = np.maximum(np.abs(before["w1"]).max(axis=1), np.abs(before["w2"]).max(axis=1))
    for alpha in (0.25, 0.5, 0.75):
        scale = size**alpha / largest ** (1 - alpha)
        scale /= np.exp(np.log(scale).mean())
        after = weights(made, Recipe({"equalise": {"first": f"smooth-{100 * alpha:g}%"}}))
        for name in ("w1", "w2"):
            np.testing.assert_allclose(after[name], before[name] * scale[:, None], rtol=1e-4)
        gamma, beta = after["norm/equalised1"], after["norm/equalised2"]
        np.testing.assert_allclose(gamma, before["gamma"] / scale, rtol=1e-4)
        np.testing.assert_allclose(beta, before["beta"] / scale, rtol=1e-4)


@pytest.mark.parametrize(("choice", "format"), [("smooth-50%", "int8-dynamic"), ("awq", "w4-b32")])
def test_rounding_does_less_damage_afterwards(choice: str, format: str, tmp_path: Path) -> None:
    model, technique = _normed(), Equalise()
    data = [zoo.feeds(model, size=50, seed=seed) for seed in range(3)]
    made = edited(model, technique, tmp_path, data[:2])
    exact = infer(model, data[2])
    damage = []
    for decisions in ({}, {"first": choice}):
        recipe = Recipe({"equalise": decisions, "quantize": dict.fromkeys(("first", "second"), format)})
        found = infer(made.assemble(recipe), data[2])
        damage.append(sum(np.square(found[name] - exact[name]).mean() for name in exact))
    assert damage[1] < 0.6 * damage[0]


@given(st.integers(0, 2**16), st.integers(1, 70), st.integers(1, 9), st.floats(0, 4))
@settings(deadline=None, max_examples=40)
def test_awq_never_does_more_damage_than_rounding_alone(seed: int, inputs: int, outputs: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    squares = np.exp(rng.uniform(-spread, spread, inputs))
    squares[rng.random(inputs) < 0.1] = 0
    matrices = [rng.standard_normal((outputs, inputs)).astype(np.float32) for _ in range(2)]
    readers = [scales.Reader(matrix, squares, np.arange(inputs)) for matrix in matrices]
    scale = scales.awq(readers, np.sqrt(squares))
    assert (scale > 0).all() and (scale[squares == 0] == 1).all()
    alone = sum(scales.rounding_damage(matrix, squares, np.ones(inputs)) for matrix in matrices)
    assert sum(scales.rounding_damage(matrix, squares, scale) for matrix in matrices) <= alone


@pytest.mark.parametrize("make", [_chain, _normed, lambda: build("gated_ffn", 17), lambda: build("flatten", 17)])
def test_moments_follow_the_scales(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """Against moments collected by running the scaled model itself."""
    model, technique = make(), Equalise()
    data = [zoo.feeds(model, size=4, seed=seed) for seed in range(2)]
    made = edited(model, technique, tmp_path, data)
    for label, decisions in technique.uniform(choices(made, technique)):
        structure = Recipe({"equalise": decisions})
        source = made.structured(structure)
        again = edited(onnx.load_from_string(made.assemble(structure)), Equalise(), tmp_path / label, data)
        for name, seen in again.source.moments.items():
            told = source.moments[name]
            np.testing.assert_allclose(told.gram, seen.gram, rtol=1e-3, atol=1e-5 * np.abs(seen.gram).max())
            np.testing.assert_allclose(told.mean, seen.mean, rtol=1e-3, atol=1e-5 * np.abs(seen.mean).max())


@pytest.mark.parametrize("format", ["int8-dynamic", "w4-b32", "w8-load", "float16"])
@pytest.mark.parametrize("name", ["flatten", "attention", "gated_ffn", "fused_norm"])
def test_scaled_layers_can_be_quantised(name: str, format: str, tmp_path: Path) -> None:
    model, technique = build(name, 20), Equalise()
    data = [zoo_feeds(model, size=3, seed=seed) for seed in range(2)]
    made = edited(model, technique, tmp_path, data)
    layers = [n for n, layer in made.source.layers.items() if made.offers(layer, format)]
    for label, decisions in technique.uniform(choices(made, technique)):
        recipe = Recipe({"equalise": decisions, "quantize": dict.fromkeys(layers, format)})
        exact = infer(model, data[0])
        for output, value in infer(made.assemble(recipe), data[0]).items():
            error = np.linalg.norm(value - exact[output]) / np.linalg.norm(exact[output])
            assert error < 0.35, (label, output, error)


def test_a_bias_stays_a_vector(tmp_path: Path) -> None:
    nodes = [
        zoo.node("MatMul", ["x", "w1"], ["a"], name="one"),
        zoo.node("Add", ["a", "b1"], ["b"], name="bias"),
        zoo.node("Relu", ["b"], ["r"]),
        zoo.node("MatMul", ["r", "w2"], ["y"], name="two"),
    ]
    constants = {"w1": zoo.weight(8, 16), "b1": zoo.weight(16), "w2": zoo.weight(16, 4)}
    model = zoo.model_of(nodes, [zoo.floats("x", "batch", "seq", 8)], ["y"], constants)
    made = edited(model, Equalise(), tmp_path)
    found = weights(made, Recipe({"equalise": {"two": "cross-layer"}}))
    assert found["bias/equalised1"].shape == (16,) and "b1" not in found


def _reasons(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], folder: Path, outputs: tuple[str, ...] = ("y",)
) -> dict[str, str]:
    model = zoo.model_of(nodes, [zoo.floats("x", "batch", 8, 6, 6)], list(outputs), constants)
    technique = Equalise()
    made = edited(model, technique, folder, tell=False)
    assert not choices(made, technique)
    return {each.name: each.reason for each in technique.survey(made.original())}


W = {"a": zoo.weight(8, 8, 3, 3), "b": zoo.weight(8, 8, 3, 3, seed=1), "zero": np.array(0, np.float32)}
PADS = {"pads": [1] * 4}


def test_what_prevents_it_is_told(tmp_path: Path) -> None:
    first = zoo.node("Conv", ["x", "a"], ["p"], name="first", **PADS)
    last = zoo.node("Conv", ["q", "b"], ["y"], name="last", **PADS)
    clip = zoo.node("Clip", ["p", "zero", "six"], ["q"], name="relu6")
    six = {"six": np.array(6, np.float32)}
    assert _reasons([first, clip, last], W | six, tmp_path) == {
        "first": "it reads an input of the model",
        "last": "Clip node 'relu6' in front of it does not keep scales",
    }
    relu, again = zoo.node("Relu", ["p"], ["q"], name="relu"), zoo.node("Conv", ["q", "b"], ["z"], name="last", **PADS)
    residual = zoo.node("Add", ["z", "q"], ["y"], name="sum")
    assert _reasons([first, relu, again, residual], W, tmp_path)["last"].startswith("Add node 'sum' reads the same")
    assert "also an output" in _reasons([first, relu, last], W, tmp_path, ("y", "q"))["last"]
    shared = zoo.node("Conv", ["q", "a"], ["y"], name="last", **PADS)
    assert _reasons([first, relu, shared], {"a": W["a"]}, tmp_path)["first"].endswith("is used 2 times")
    elsewhere = [
        first, relu,
        zoo.node("Conv", ["q", "b"], ["z"], name="last", **PADS),
        zoo.node("Tanh", ["z"], ["t"]),
        zoo.node("Conv", ["t", "b"], ["y"], name="other", **PADS),
    ]  # fmt: skip
    assert (
        _reasons(elsewhere, W, tmp_path)["last"] == "layer 'last', which reads the same tensor, is also used elsewhere"
    )


def test_a_tensor_times_its_own_relu_is_left_alone(tmp_path: Path) -> None:
    """Both factors would be divided, and the product twice."""
    nodes = [
        zoo.node("Conv", ["x", "a"], ["p"], name="first", **PADS),
        zoo.node("Relu", ["p"], ["q"], name="relu"),
        zoo.node("Mul", ["p", "q"], ["m"], name="product"),
        zoo.node("Conv", ["m", "b"], ["y"], name="last", **PADS),
    ]
    assert "Mul node 'product'" in _reasons(nodes, W, tmp_path)["last"]


def test_dead_channels_keep_their_scale(tmp_path: Path) -> None:
    model = _chain()
    for tensor in model.graph.initializer:
        if tensor.name == "a.weight":
            dead = onnx.numpy_helper.to_array(tensor).copy()
            dead[3] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(dead, tensor.name))
    made = edited(model, Equalise(), tmp_path)
    for choice in ("cross-layer", "awq"):
        recipe = Recipe({"equalise": {"b" if choice == "cross-layer" else "c": choice}})
        assert all(np.isfinite(array).all() for array in weights(made, recipe).values())
        feeds = zoo.feeds(model)
        _same(infer(made.assemble(recipe), feeds), infer(model, feeds))


def test_ranges_are_read_per_channel(tmp_path: Path) -> None:
    """Grouped convolutions: input channel c of group g is channel g * inputs + c of the tensor."""
    model = build("grouped", 17)
    made = edited(model, Equalise(), tmp_path, tell=False)
    plan = made.original()
    for unit in find(plan)[0].values():
        for name, channels in unit.readers.items():
            layer = plan.layer(name)
            weight = np.abs(plan.weight(layer))
            if layer.op != "Conv" or not np.array_equal(channels, np.arange(unit.channels)):
                continue
            outputs, inputs = layer.shape[0] // layer.group, layer.shape[1]
            expected = [
                weight[c // inputs * outputs : (c // inputs + 1) * outputs, c % inputs].max()
                for c in range(layer.group * inputs)
            ]
            np.testing.assert_allclose(np.abs(folding.by_input(plan, name)).max(axis=(1, 2)), expected)


def test_recipes_are_deterministic_and_found_again_from_disk(tmp_path: Path) -> None:
    model = _normed()
    recipe = Recipe({"equalise": {"first": "awq"}})
    data: list[Feeds] = [zoo.feeds(model, size=9)]
    assert edited(model, Equalise(), tmp_path, data).assemble(recipe) == edited(
        model, Equalise(), tmp_path, data
    ).assemble(recipe)


def test_failures_name_the_layer(tmp_path: Path) -> None:
    made = edited(_normed(), Equalise(), tmp_path, tell=False)
    with pytest.raises(UsageError, match="after survey"):
        Equalise().choices(made.source.layers["first"], None)  # type: ignore[arg-type]
    for choice, message in (
        ("smooth-50%", "nothing is known"),
        ("awq", "nothing is known"),
        ("cross-layer", "no layer"),
    ):
        with pytest.raises(TrialFailure, match=f"'first'.*{message}"):
            made.assemble(Recipe({"equalise": {"first": choice}}))
    with pytest.raises(TrialFailure, match="'second' has no scale to move: another layer names its unit"):
        made.assemble(Recipe({"equalise": {"second": "awq"}}))
    with pytest.raises(UsageError, match="no choice 'half'"):
        made.assemble(Recipe({"equalise": {"first": "half"}}))
    with pytest.raises(KeyError):
        made.assemble(Recipe({"equalise": {"nobody": "awq"}}))
    chain = edited(_chain(), Equalise(), tmp_path / "chain")
    with pytest.raises(TrialFailure, match="'b': awq is for products"):
        chain.assemble(Recipe({"equalise": {"b": "awq"}}))


@pytest.mark.parametrize(
    "options", [{"kinds": ["all"]}, {"kinds": "awq"}, {"alphas": [1.5]}, {"alphas": 0.5}, {"insert": "yes"}]
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="technique equalise"):
        Equalise(**options)  # type: ignore[arg-type]


def _task(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"equalised_{name}", STUDIES / name / "task.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _exported(module: Any, example: np.ndarray, axes: dict[str, dict[int, str]]) -> onnx.ModelProto:
    torch = pytest.importorskip("torch")
    from autotune.compress.torch_export import export

    return export(module, (torch.from_numpy(example),), axes)


@pytest.mark.slow
@pytest.mark.parametrize(("study", "units"), [("digits", 4), ("spam", 6)])
def test_networks_of_the_studies_stay_the_same(study: str, units: int, tmp_path: Path) -> None:
    """Untrained, as torch exports them: the digits CNN, and MiniLM with two numbers of tokens."""
    torch = pytest.importorskip("torch")
    for package in ("sklearn", "PIL"):
        pytest.importorskip(package)
    task = _task(study)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    if study == "digits":
        data = [{"image": rng.random((2, 1, 16, 16)).astype(np.float32)} for _ in range(4)]
        model = _exported(task.DigitNet().eval(), data[0]["image"], {"image": {0: "batch"}})
    else:
        data = [{"ids": rng.integers(1, 3000, (2, 16 + 3 * i)).astype(np.int64)} for i in range(3)]
        model = _exported(task.MiniLm().eval(), data[0]["ids"], {"ids": {0: "batch", 1: "tokens"}})
    technique = Equalise()
    made = edited(model, technique, tmp_path, data)
    offered = choices(made, technique)
    assert len(offered) == units
    for label, decisions in technique.uniform(offered):
        if label in ("smooth-25%", "smooth-75%"):
            continue
        changed = made.assemble(Recipe({"equalise": decisions}))
        for feeds in data[:2]:
            _same(infer(changed, feeds), infer(model, feeds), label)


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("name", ["encoder", "flatten", "gated_ffn", "one_dimensional"])
def test_scales_factors_zeros_and_formats_go_together(name: str, insert: bool, tmp_path: Path) -> None:
    model, technique = build(name, 20), Equalise(insert=insert)
    data = [zoo_feeds(model, size=4, seed=seed) for seed in range(3)]
    made = edited(model, technique, tmp_path, data)
    made.techniques |= {"factorize": Factorize(), "sparsify": Sparsify(shares=[0.5])}
    exact = infer(made.assemble(Recipe()), data[0])
    scaled = technique.uniform(choices(made, technique))
    formats = {n: "w8-load" for n, layer in made.source.layers.items() if made.offers(layer, "w8-load")}
    for label, decisions in scaled:
        recipe = {
            "equalise": decisions,
            "factorize": _mildest(made, Factorize()),
            "sparsify": _mildest(made, Sparsify(shares=[0.5])),
            "quantize": formats,
        }
        artifact = made.assemble(Recipe(recipe))
        onnx.checker.check_model(onnx.load_from_string(artifact))
        for output, value in infer(artifact, data[0]).items():
            error = np.linalg.norm(value - exact[output]) / np.linalg.norm(exact[output])
            assert error < 1, (label, output, error)


def _mildest(made: Any, technique: Any) -> dict[str, str]:
    """The mildest choice of every layer."""
    at = -1 if technique.name == "factorize" else 0
    return {layer: each[at] for layer, each in choices(made, technique).items()}
