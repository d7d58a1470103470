"""Artifacts that are written piece by piece: the same files and records as those given as bytes, and all or nothing."""

from __future__ import annotations

import hashlib
import resource
from typing import BinaryIO

import pytest

from autotune.errors import DiskError
from autotune.store import Store

PIECES = [bytes([number]) * 1000 for number in range(256)]
WHOLE = b"".join(PIECES)


def in_pieces(stream: BinaryIO) -> None:
    for piece in PIECES:
        stream.write(piece)


def test_pieces_and_bytes_are_one_artifact(store: Store) -> None:
    artifact = store.save_artifact(in_pieces, "ort-cpu")
    assert artifact == store.save_artifact(WHOLE, "ort-cpu")
    assert (artifact.digest, artifact.size_bytes) == (hashlib.sha256(WHOLE).hexdigest(), len(WHOLE))
    assert store.artifact_bytes(artifact.digest) == WHOLE
    assert [path.name for path in store.artifacts.iterdir()] == [f"{artifact.digest}.onnx"]


@pytest.mark.parametrize("given", [in_pieces, WHOLE])
def test_what_is_there_whole_is_not_written_again_and_what_is_damaged_is(store: Store, given: object) -> None:
    path = store.artifact_path(store.save_artifact(WHOLE, "ort-cpu").digest)
    before = path.stat().st_ino
    store.save_artifact(given, "ort-cpu")  # type: ignore[arg-type]
    assert path.stat().st_ino == before
    path.write_bytes(WHOLE[:-1] + b"x")
    store.save_artifact(given, "ort-cpu")  # type: ignore[arg-type]
    assert path.read_bytes() == WHOLE


def test_a_writer_that_fails_leaves_nothing(store: Store) -> None:
    def fails(stream: BinaryIO) -> None:
        in_pieces(stream)
        raise KeyError("a layer that is not there")

    with pytest.raises(KeyError, match="a layer that is not there"):
        store.save_artifact(fails, "ort-cpu")
    assert list(store.artifacts.iterdir()) == []


def test_a_full_device_leaves_nothing(store: Store) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DiskError, match="free some space"):
            store.save_artifact(in_pieces, "ort-cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(store.artifacts.iterdir()) == []
