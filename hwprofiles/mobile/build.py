"""Makes a bundle out of Debian's and PyPI's packages: about 50 MB to load, half a minute; 31 MB packed, 95 unpacked."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hwprofiles.errors import BadProfile, HardwareError
from hwprofiles.mobile.bundle import ARCHIVE, MANIFEST, Bundle, Manifest, Package, read_bundle
from hwprofiles.mobile.packages import MIRROR, Debian, Say, fetch_wheels, installed_version, unpack_deb
from hwprofiles.mobile.tree import LOADER, assemble

# Debian's suite that has a Python, and the manylinux level that its glibc can run.
SUITES = {"3.11": ("bookworm", "libffi8"), "3.13": ("trixie", "libffi8")}
PLATFORM = "manylinux_2_28_aarch64"


def build_bundle(
    out: Path,
    *,
    python: str = "3.11",
    onnxruntime: str | None = None,
    mirror: str = MIRROR,
    cache: Path | None = None,
    say: Say = lambda _: None,
) -> Bundle:
    """Make the bundle in folder `out`; one that is there is replaced. Packages are kept in `cache`.

    `onnxruntime` is a version; by default the one that is installed here, so that both sides compute with the same,
    else the newest. Raises `BadProfile` for a Python that cannot be had, `HardwareError` with what to do if a tool is
    missing or a source cannot be reached, `OSError` of the disk.
    """
    if python not in SUITES:
        raise BadProfile(f"no bundle of Python {python!r} can be made; choose one of {', '.join(SUITES)}")
    suite, ffi = SUITES[python]
    version = onnxruntime or installed_version("onnxruntime")
    names = [f"python{python}-minimal", f"libpython{python}-minimal", f"libpython{python}-stdlib"]
    names += ["libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libbz2-1.0", "liblzma5", "libuuid1", ffi]
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with _empty_if_failed(out), tempfile.TemporaryDirectory(prefix=".bundle-", dir=out) as scratch:
        work = Path(scratch)
        store = cache.absolute() if cache is not None else work / "packages"
        say(f"loading {len(names)} Debian packages ({suite}, arm64) from {mirror}")
        debs = Debian(store / f"{suite}-arm64", suite, "arm64", mirror=mirror).fetch(names)
        wanted = ["numpy", f"onnxruntime=={version}" if version else "onnxruntime"]
        say(f"loading {' and '.join(wanted)} for {PLATFORM} with pip")
        wheels = fetch_wheels(wanted, store / f"wheels-{python}", python=python, platform=PLATFORM)
        packages = tuple(package for package, _ in [*debs, *wheels])
        say("unpacking and trimming")
        for _, file in debs:
            unpack_deb(file, work / "debian")
        assemble(work / "debian", [file for _, file in wheels], python, work / "tree")
        say("compressing")
        manifest = pack(work / "tree", work / ARCHIVE, python, packages)
        (work / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
        # The archive first: a manifest without its archive would be refused, the old one with a new archive as well.
        for name in (ARCHIVE, MANIFEST):
            (work / name).replace(out / name)
    bundle = read_bundle(out)
    say(f"{bundle.archive}: {manifest.size / 1e6:.1f} MB, {manifest.unpacked_size / 1e6:.0f} MB unpacked")
    return bundle


def unpack_here(bundle: Bundle, folder: Path) -> Path:
    """The bundle's files under `folder`, on this machine, e.g. for an emulator; those there are replaced.

    Raises `BadProfile` if the archive is not what its manifest says, `OSError` of the disk.
    """
    bundle.verify()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with tarfile.open(bundle.archive, "r:gz") as archive:
            archive.extractall(part, filter="data")
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    folder.chmod(0o755)
    return folder


@contextlib.contextmanager
def _empty_if_failed(folder: Path) -> Iterator[None]:
    """Leave no empty folder behind."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def pack(tree: Path, archive: Path, python: str, packages: tuple[Package, ...]) -> Manifest:
    """Write the archive: names in order, no times, no owners, so that equal files give equal bytes."""
    start = (f"{{folder}}/lib/{LOADER}", "--library-path", "{folder}/lib", f"{{folder}}/bin/python{python}", "-s", "-E")
    manifest = Manifest(
        python=python, digest="", archive_sha256="", size=0, unpacked_size=0, start=start, packages=packages
    )
    (tree / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
    plain = hashlib.sha256()
    unpacked = 0
    with (
        archive.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=_Tee(packed, plain), mode="w|", format=tarfile.GNU_FORMAT) as tar,  # type: ignore[call-overload]
    ):
        # The marker that a bundle is complete comes last.
        paths = sorted(path for path in tree.rglob("*") if path.name != MANIFEST or path.parent != tree)
        for path in [*paths, tree / MANIFEST]:
            member = tarfile.TarInfo(path.relative_to(tree).as_posix())
            member.mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
            if path.is_dir():
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
                continue
            if path.is_symlink():
                raise HardwareError(f"{member.name} is a link; this is a bug, report it")
            data = path.read_bytes()
            member.size = len(data)
            unpacked += len(data)
            tar.addfile(member, io.BytesIO(data))
    with archive.open("rb") as written:
        sent = hashlib.file_digest(written, "sha256").hexdigest()
    facts = {"digest": plain.hexdigest(), "archive_sha256": sent, "size": archive.stat().st_size}
    return manifest.model_copy(update={**facts, "unpacked_size": unpacked})


class _Tee:
    """A file to write to that takes the digest of what goes through."""

    def __init__(self, target: gzip.GzipFile, digest: hashlib._Hash) -> None:
        self._target = target
        self._digest = digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._target.write(data)
