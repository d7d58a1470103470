"""What tests of real devices load once and keep: packages, and a bundle made of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hwprofiles.errors import HardwareError
from hwprofiles.mobile.build import build_bundle
from hwprofiles.mobile.bundle import Bundle, read_bundle
from hwprofiles.mobile.packages import installed_version

# Read when this is imported: every test gets an empty cache folder of its own.
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hw-autotune-tests"


def missing(reason: str) -> None:
    """Skip the test, but fail where all that tests need is promised to be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def kept_bundle() -> Bundle:
    """A bundle with the ONNX Runtime that is installed here, made on first use."""
    folder = KEPT / f"bundle-3.11-{installed_version('onnxruntime')}"
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        try:
            build_bundle(part, cache=KEPT / "packages")
        except HardwareError as error:
            shutil.rmtree(part, ignore_errors=True)
            missing(f"no bundle: {error}")
        keep(part, folder)
    return read_bundle(folder)


def keep(part: Path, folder: Path) -> None:
    """`part` as `folder`, unless somebody else was quicker."""
    try:
        part.rename(folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
