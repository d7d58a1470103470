"""A bundle as files: packed the same every time, refused when it is damaged, unpacked by any shell."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hwprofiles.errors import BadProfile
from hwprofiles.mobile.build import pack, unpack_here
from hwprofiles.mobile.bundle import ARCHIVE, MANIFEST, Bundle, Package, read_bundle

_PACKAGE = Package(name="numpy", version="2.4.6", kind="wheel", file="numpy.whl", sha256="0" * 64)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return _made(tmp_path / "bundle", tmp_path / "tree")


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    first = _made(tmp_path / "a", tmp_path / "tree-a")
    time.sleep(0.01)
    second = _made(tmp_path / "b", tmp_path / "tree-b", umask=0o077)
    assert first.archive.read_bytes() == second.archive.read_bytes()
    assert first.digest == second.digest and first.manifest == second.manifest
    other = _made(tmp_path / "c", tmp_path / "tree-c", text="other")
    assert other.digest != first.digest


def test_command_starts_python_by_its_own_loader(bundle: Bundle) -> None:
    place = bundle.place("/data/local/tmp/x/")
    assert place == f"/data/local/tmp/x/bundle-{bundle.digest[:16]}"
    loader, option, libraries, python, *_ = bundle.command(place)
    assert loader == f"{place}/lib/ld-linux-aarch64.so.1"
    assert (option, libraries, python) == ("--library-path", f"{place}/lib", f"{place}/bin/python3.11")


def test_manifest_tells_what_went_in(bundle: Bundle) -> None:
    assert bundle.manifest.version_of("numpy") == "2.4.6"
    assert bundle.label == "android-glibc-bundle"
    with pytest.raises(KeyError):
        bundle.manifest.version_of("torch")


@pytest.mark.parametrize("form", ["gzip", "plain"])
def test_unpacks_whole_or_not_at_all(bundle: Bundle, tmp_path: Path, form: str) -> None:
    device = tmp_path / "a device"  # the blank must be quoted
    device.mkdir()
    archive, place = device / "sent", bundle.place(str(device))
    data = bundle.archive.read_bytes()
    archive.write_bytes(data if form == "gzip" else gzip.decompress(data))
    assert _shell(bundle.check_script(place)).returncode == 1
    done = _shell(bundle.unpack_script(str(archive), place))
    assert done.returncode == 0, done.stderr
    assert _shell(bundle.check_script(place)).returncode == 0
    assert (Path(place) / "bin" / "python3.11").read_text() == "interpreter"
    assert os.access(Path(place) / "lib" / "ld-linux-aarch64.so.1", os.X_OK)
    assert [path.name for path in device.iterdir()] == [Path(place).name]


def test_a_damaged_archive_leaves_nothing_on_the_device(bundle: Bundle, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.mkdir()
    (device / "sent").write_bytes(bundle.archive.read_bytes()[:-200])
    done = _shell(bundle.unpack_script(str(device / "sent"), bundle.place(str(device))))
    assert done.returncode == 1 and done.stderr
    assert not list(device.iterdir())


def test_many_may_unpack_at_once(bundle: Bundle, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.mkdir()
    scripts = []
    for number in range(8):
        archive = device / f"sent-{number}"
        shutil.copyfile(bundle.archive, archive)
        scripts.append(bundle.unpack_script(str(archive), bundle.place(str(device))))
    with ThreadPoolExecutor(len(scripts)) as pool:
        assert {done.returncode for done in pool.map(_shell, scripts)} == {0}
    (place,) = device.iterdir()
    assert (place / "bin" / "python3.11").read_text() == "interpreter"


def test_unpacks_here_for_an_emulator(bundle: Bundle, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for _ in range(2):  # what is there is replaced
        assert unpack_here(bundle, root) == root
        assert (root / MANIFEST).is_file()
        (root / "left over").touch()
    assert not list(tmp_path.glob(".root-*"))


def test_what_is_damaged_is_refused(bundle: Bundle) -> None:
    data = bundle.archive.read_bytes()
    bundle.archive.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    read_bundle(bundle.folder)  # as long as it was
    with pytest.raises(BadProfile, match=r"its manifest says .*autotune targets bundle"):
        bundle.verify()
    bundle.archive.write_bytes(data + b"x")
    with pytest.raises(BadProfile, match=rf"has {len(data) + 1} bytes instead of {len(data)}"):
        read_bundle(bundle.folder / MANIFEST)
    bundle.archive.unlink()
    with pytest.raises(BadProfile, match=rf"{ARCHIVE} is missing"):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', "\udcff"])
def test_a_manifest_of_something_else_is_refused(bundle: Bundle, text: str) -> None:
    (bundle.folder / MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadProfile, match=r"^bundle [^\n]*autotune targets bundle [^\n]*$"):
        read_bundle(bundle.folder)


def test_no_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadProfile, match=r"there is none.*autotune targets bundle"):
        read_bundle(tmp_path / "nothing")


def _made(folder: Path, tree: Path, *, text: str = "interpreter", umask: int = 0o022) -> Bundle:
    before = os.umask(umask)
    try:
        for name, content in {
            "bin/python3.11": text,
            "lib/ld-linux-aarch64.so.1": "loader",
            "lib/python3.11/os.py": "x" * 5000,
        }.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(0o644 if path.suffix == ".py" else 0o755)
        folder.mkdir()
        manifest = pack(tree, folder / ARCHIVE, "3.11", (_PACKAGE,))
    finally:
        os.umask(before)
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json")))
    return read_bundle(folder)


def _shell(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
