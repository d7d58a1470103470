"""The cache of models on the device: whole files under their digest, bounded."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwprofiles.agent.cache import BlobCache, Scratch


def add(cache: BlobCache, data: bytes, scratch: Path, step: int = 1000) -> str:
    digest = hashlib.sha256(data).hexdigest()
    for offset in range(0, max(len(data), 1), step):
        cache.add(digest, offset, len(data), bytearray(data[offset : offset + step]), scratch)
    return digest


@pytest.mark.parametrize("size", [0, 999, 1000, 1001, 5000])
def test_arrives_in_pieces(tmp_path: Path, size: int) -> None:
    cache = BlobCache(tmp_path / "blobs")
    data = os.urandom(size)
    found = cache.find(add(cache, data, tmp_path))
    assert found is not None and found.read_bytes() == data


def test_wrong_bytes_never_become_visible(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs")
    digest = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(ValueError, match="changed on the way"):
        cache.add(digest, 0, 5, bytearray(b"wrong"), tmp_path)
    assert cache.find(digest) is None and not list((tmp_path / "blobs").iterdir())


def test_pieces_out_of_order(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs")
    digest = hashlib.sha256(b"right").hexdigest()
    cache.add(digest, 0, 5, bytearray(b"ri"), tmp_path)
    with pytest.raises(ValueError, match="out of order"):
        cache.add(digest, 3, 5, bytearray(b"ht"), tmp_path)


_PUT = """
import hashlib, sys, time
from pathlib import Path
from hwprofiles.agent.cache import BlobCache, Scratch
folder, data = Path(sys.argv[1]), bytes(1 << 20)
cache, scratch, digest = BlobCache(folder / "blobs"), Scratch(folder / "scratch"), hashlib.sha256(data).hexdigest()
print(digest, flush=True)
for offset in range(0, len(data), 4096):
    cache.add(digest, offset, len(data), bytearray(data[offset : offset + 4096]), scratch.folder)
    if offset // 4096 == int(sys.argv[2]):
        print("now", flush=True)
        time.sleep(600)
print("done", flush=True)
"""


@pytest.mark.parametrize("after", [0, 100, 254])
def test_a_process_killed_in_the_middle_leaves_nothing_torn(tmp_path: Path, after: int) -> None:
    with subprocess.Popen([sys.executable, "-c", _PUT, str(tmp_path), str(after)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        digest = process.stdout.readline().decode().strip()
        assert process.stdout.readline() == b"now\n"
        process.kill()
    assert BlobCache(tmp_path / "blobs").find(digest) is None
    Scratch(tmp_path / "scratch").remove()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_full_disk_gets_back_what_was_begun(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs")
    data = os.urandom(1 << 16)
    digest = hashlib.sha256(data).hexdigest()
    cache.add(digest, 0, len(data), bytearray(data[:10]), tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError):
            cache.add(digest, 10, len(data), bytearray(data[10:]), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.glob("*.part"))
    assert cache.find(add(cache, data, tmp_path)) is not None  # and it can be sent again from its beginning


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_digest_cannot_be_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ValueError, match="not a sha256"):
        BlobCache(tmp_path).find(digest)


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs")
    cache.limit = 2500
    digests = []
    for index in range(2):
        digests.append(add(cache, bytes([index]) * 1000, tmp_path))
        os.utime(tmp_path / "blobs" / f"{digests[-1]}.onnx", (index, index))
    assert cache.find(digests[0]) is not None  # used again, so the other one is the oldest now
    digests.append(add(cache, b"2" * 1000, tmp_path))
    assert [cache.find(digest) is not None for digest in digests] == [True, False, True]


def test_scratch_of_the_dead_is_cleared_that_of_the_living_stays(tmp_path: Path) -> None:
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead" / "profile.json").write_text("{}")
    first = Scratch(tmp_path)
    second = Scratch(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {first.folder.name, second.folder.name}
    first.remove()
    assert [p.name for p in tmp_path.iterdir()] == [second.folder.name]
