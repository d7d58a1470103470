"""Frames: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprofiles.agent import frames

DTYPES = sorted(frames.PLAIN_TYPES)


def roundtrip(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    specs, parts = frames.pack_arrays(arrays)
    payload = bytearray(b"".join(parts))
    sent = frames.encode({"arrays": specs}, len(payload))
    header_size, payload_size = frames.decode_prefix(sent[: frames.PREFIX.size])
    assert payload_size == len(payload)
    header = frames.decode_header(sent[frames.PREFIX.size :][:header_size], payload_size)
    return frames.unpack_arrays(header["arrays"], payload)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 1, 3)])
def test_arrays_survive(kind: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) - 1).astype(kind)
    back = roundtrip({"other": np.ones(1, np.int8), "a/b": array})["a/b"]
    assert back.dtype == array.dtype and back.shape == array.shape and np.array_equal(back, array)
    assert back.flags.aligned and back.flags.writeable


def test_foreign_layouts_survive() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    assert np.array_equal(roundtrip({"x": array})["x"], array)


def test_text_survives() -> None:
    array = np.array([["a", "ü\n"], ["", "\x00"]], dtype=object)
    assert np.array_equal(roundtrip({"t": array})["t"], array)


@pytest.mark.parametrize("value", [[{1: 0.5}], {"a": 1}, np.array([object()]), np.zeros(2, "datetime64[s]")])
def test_what_is_no_tensor_is_refused(value: object) -> None:
    with pytest.raises(frames.ArrayError):
        frames.pack_arrays({"x": value})


@given(st.binary(min_size=frames.PREFIX.size, max_size=frames.PREFIX.size))
def test_random_prefix_is_refused(prefix: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode_prefix(prefix)


@pytest.mark.parametrize(("header", "payload"), [(frames.MAX_HEADER + 1, 0), (10, 4 << 30), (2**32 - 1, 2**63)])
def test_huge_lengths_are_refused(header: int, payload: int) -> None:
    with pytest.raises(frames.FrameError, match="over the limit"):
        frames.decode_prefix(frames.PREFIX.pack(frames.MAGIC, header, payload), 1 << 30)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
dimension = st.sampled_from([0, 1, 2, 3, 2**31, 2**39, 2**40, 2**40 + 1, 2**63, 2**64]) | st.integers()
shape = st.lists(dimension, max_size=5) | st.lists(st.sampled_from([0, 1]), min_size=30, max_size=70)
spec = st.fixed_dictionaries(
    {},
    optional={
        "name": anything | st.text(),
        "type": anything | st.sampled_from(DTYPES),
        "shape": anything | shape,
        "bytes": anything,
    },
)


@st.composite
def fitting(draw: st.DrawFn) -> dict[str, object]:
    """A description whose bytes are those that its shape takes: only the shape itself can be wrong with it."""
    kind, dims = draw(st.sampled_from([*DTYPES, "str"])), draw(shape)
    size = 1 if kind in ("bool", "str") else np.dtype(kind).itemsize
    return {"name": "x", "type": kind, "shape": dims, "bytes": size * math.prod(dims)}


@given(st.binary(max_size=200) | st.just(b"[" * 100_000))
def test_random_header_is_refused_or_an_object(text: bytes) -> None:
    with contextlib.suppress(frames.FrameError):
        assert isinstance(frames.decode_header(text, 0), dict)


@given(st.lists(spec | anything, max_size=3) | anything, st.integers(0, 100))
def test_random_array_specs_are_refused_or_unpack(specs: object, size: int) -> None:
    with contextlib.suppress(frames.FrameError):
        header = frames.decode_header(json.dumps({"arrays": specs}).encode(), size)
        frames.unpack_arrays(header["arrays"], bytearray(size))


@settings(max_examples=300, deadline=None)
@given(fitting(), st.binary(max_size=40) | st.just(b"[" * 3000))
def test_any_shape_is_refused_or_unpacks_to_it(spec: dict[str, Any], text: bytes) -> None:
    if spec["type"] == "str":
        payload = bytearray(text)
        spec["bytes"] = len(payload)
    else:
        payload = bytearray(spec["bytes"] if 0 <= spec["bytes"] < 1 << 16 else 0)
    header = json.dumps({"arrays": [spec]}).encode()
    with contextlib.suppress(frames.FrameError):
        found = frames.unpack_arrays(frames.decode_header(header, len(payload))["arrays"], payload)
        assert found["x"].shape == tuple(spec["shape"])


def described(dims: list[int], size: int = 0) -> list[dict[str, object]]:
    return [{"name": "x", "type": "float64", "shape": dims, "bytes": size}]


@pytest.mark.parametrize(
    "dims", [[1] * 1_000_000, [1] * 33, [0] * 33, [0, 2**39, 2**39], [2**40, 2**40, 0], [0, 2**63], [0, -1], [0, True]]
)
@pytest.mark.parametrize("kind", ["float64", "str"])
def test_impossible_shapes_are_refused_shortly(dims: list[int], kind: str) -> None:
    with pytest.raises(frames.FrameError, match="impossible shape") as raised:
        frames.check_arrays([{"name": "x" * 10_000, "type": kind, "shape": dims, "bytes": 0}], 0)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("dims", [[1] * 32, [0] * 32, [0, 2**40], [2**39, 0, 2], []])
def test_possible_shapes_unpack(dims: list[int]) -> None:
    size = 8 * math.prod(dims)
    frames.check_arrays(described(dims, size), size)
    assert frames.unpack_arrays(described(dims, size), bytearray(size))["x"].shape == tuple(dims)


def test_more_dimensions_than_can_be_read_are_not_sent() -> None:
    with pytest.raises(frames.ArrayError, match="33 dimensions"):
        frames.pack_arrays({"x": np.zeros(40, np.float32)[(None,) * 32]})


def test_text_nested_too_deeply_is_refused() -> None:
    text = bytearray(b"[" * 100_000)
    spec = [{"name": "x", "type": "str", "shape": [1], "bytes": len(text)}]
    with pytest.raises(frames.FrameError, match="nested"):
        frames.unpack_arrays(spec, text)
