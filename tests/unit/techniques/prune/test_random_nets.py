"""Random convolution nets with residuals, concatenations, gates, splits and shuffles; and random reshapes."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.techniques.prune.rules_reshape import chunks
from tests.unit.techniques.prune import graphs
from tests.unit.techniques.prune.checking import Case, check

QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def nets(draw: st.DrawFn) -> onnx.ModelProto:
    """A stem and two to six steps, each of which reads any tensors that were made before."""
    net = graphs.Net(seed=draw(st.integers(0, 1000)) * 1000)
    widths = {net.op("Relu", net.conv("x", 3, 8, "stem")): 8}
    for step in range(draw(st.integers(2, 6))):
        x = draw(st.sampled_from(sorted(widths)))
        width = widths[x]
        kind = draw(
            st.sampled_from(["conv", "residual", "concat", "depthwise", "grouped", "gate", "split", "norm", "shuffle"])
        )
        if kind == "conv":
            width = draw(st.sampled_from([4, 8, 12]))
            out = net.conv(x, widths[x], width, f"conv{step}", kernel=3)
        elif kind == "residual":
            out = net.op("Add", x, net.op("Tanh", net.conv(x, width, width, f"residual{step}")))
        elif kind == "concat":
            other = draw(st.sampled_from(sorted(widths)))
            out, width = net.op("Concat", x, other, axis=1), width + widths[other]
        elif kind == "depthwise":
            out = net.conv(x, width, width, f"depthwise{step}", kernel=3, group=width)
        elif kind == "grouped":
            group = draw(st.sampled_from([2, 4]))
            out = net.conv(x, width, 2 * width, f"grouped{step}", group=group)
            width *= 2
        elif kind == "gate":
            gate = net.conv(net.op("GlobalAveragePool", x), width, width, f"gate{step}")
            out = net.op("Mul", x, net.op("Sigmoid", gate))
        elif kind == "split":
            left, right = net.several("Split", [x, net.const([width // 2, width // 2])], 2, axis=1)
            out, width = net.op("Add", left, right), width // 2
            if width % 4:
                out, width = net.op("Concat", out, out, axis=1), 2 * width
        elif kind == "shuffle":
            group = draw(st.sampled_from([2, 4]))
            out = net.op("Reshape", x, net.const([0, group, width // group, 6, 6]))
            out = net.op("Transpose", out, perm=[0, 2, 1, 3, 4])
            out = net.op("Reshape", out, net.const([0, width, 6, 6]))
        else:
            norm = [net.random(width), net.random(width), net.random(width), net.random(width, positive=True)]
            out = net.op("Relu", net.op("BatchNormalization", x, *norm))
        widths[out] = width
    read = [net.conv(x, width, 4, f"last{at}") for at, (x, width) in enumerate(sorted(widths.items()))]
    return net.model(net.op("Sum", *read), *graphs.IMAGE)


@QUICK
@given(model=nets(), data=st.data())
def test_random_nets(model: onnx.ModelProto, data: st.DataObject) -> None:
    case = Case.of(model, round_to=1)
    if case.units:
        chosen = data.draw(st.sets(st.sampled_from(sorted(case.units)), min_size=1))
        decisions = {layer: data.draw(st.sampled_from(case.units[layer].choices)) for layer in sorted(chosen)}
        check(case, decisions, sizes=(2,))


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Two shapes with the same number of elements."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 5]), min_size=1, max_size=6))

    def grouped() -> list[int]:
        shape = [1]
        for factor in factors:
            if draw(st.booleans()):
                shape.append(factor)
            else:
                shape[-1] *= factor
        return shape

    return grouped(), grouped()


@given(shapes=reshapes(), hidden=st.data())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_chunks_hold_the_same_numbers(shapes: tuple[list[int], list[int]], hidden: st.DataObject) -> None:
    """The flat index within the axes of a chunk is the same before and after, whatever sizes are not known."""
    before, after = shapes
    secret = [hidden.draw(st.booleans()) for _ in (*before, *after)]
    masked = [
        [("axis", side, axis) if secret[side * len(before) + axis] else size for axis, size in enumerate(shape)]
        for side, shape in enumerate(shapes)
    ]
    tokens = [[(f"{s[1]}", s[2]) if isinstance(s, tuple) else s for s in side] for side in masked]
    places = np.arange(int(np.prod(before)))
    for one, other in chunks(tokens[0], tokens[1]):
        np.testing.assert_array_equal(_within(places, before, one), _within(places, after, other))


def _within(places: np.ndarray, shape: list[int], axes: tuple[int, ...]) -> np.ndarray:
    if not axes:
        return np.zeros_like(places)
    assert axes == tuple(range(axes[0], axes[-1] + 1))
    inner = int(np.prod(shape[axes[-1] + 1 :]))
    size = int(np.prod([shape[axis] for axis in axes]))
    result: np.ndarray = places // inner % size
    return result
