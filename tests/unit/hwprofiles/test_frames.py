"""Frames: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
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
spec = st.fixed_dictionaries(
    {},
    optional={
        "name": anything | st.text(),
        "type": anything | st.sampled_from(DTYPES),
        "shape": anything,
        "bytes": anything,
    },
)


@given(st.binary(max_size=200) | st.just(b"[" * 100_000))
def test_random_header_is_refused_or_an_object(text: bytes) -> None:
    with contextlib.suppress(frames.FrameError):
        assert isinstance(frames.decode_header(text, 0), dict)


@given(st.lists(spec | anything, max_size=3) | anything, st.integers(0, 100))
def test_random_array_specs_are_refused_or_unpack(specs: object, size: int) -> None:
    with contextlib.suppress(frames.FrameError):
        header = frames.decode_header(json.dumps({"arrays": specs}).encode(), size)
        frames.unpack_arrays(header["arrays"], bytearray(size))
