"""A bundle: Python, numpy and ONNX Runtime for Linux on aarch64 in one archive, for devices that have none of them.

It is started by its own loader, so the device needs neither glibc nor root: an Android shell is enough.

    bundle = read_bundle(Path("phone-bundle"))
    place = bundle.place("/data/local/tmp/hw-autotune")      # where it lies on the device, named by its digest
    # send bundle.archive there, run bundle.unpack_script(archive, place), then start
    bundle.command(place) + [program, *arguments]
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hwprofiles.errors import BadProfile

MANIFEST = "bundle.json"
ARCHIVE = "bundle.tar.gz"
LABEL = "android-glibc-bundle"


class Package(BaseModel):
    """One Debian package or wheel that went in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    kind: Literal["debian", "wheel"]
    file: str
    sha256: str


class Manifest(BaseModel):
    """What is in a bundle. Sizes are in bytes.

    `digest` is the sha256 of the tar file before it is compressed: equal packages give equal digests, whatever
    compressed them. It names the bundle. `archive_sha256` and `size` are those of the file as it is sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    label: str = LABEL
    machine: str = "aarch64"  # as `uname -m` says it
    python: str  # "3.11"
    digest: str
    archive_sha256: str
    size: int
    unpacked_size: int
    start: tuple[str, ...]  # the words that start Python; "{folder}" is where the archive was unpacked
    packages: tuple[Package, ...]

    def version_of(self, package: str) -> str:
        """Version of a package by name; KeyError if it is not in."""
        return {each.name: each.version for each in self.packages}[package]


@dataclass(frozen=True)
class Bundle:
    """A bundle on this machine."""

    folder: Path
    manifest: Manifest

    @property
    def archive(self) -> Path:
        """The gzipped tar file; its members lie at its top, without a folder around them."""
        return self.folder / ARCHIVE

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def label(self) -> str:
        return self.manifest.label

    def place(self, folder: str) -> str:
        """Where this bundle lies on a device that keeps ours in `folder`. It is complete if it is there at all."""
        return f"{folder.rstrip('/')}/bundle-{self.digest[:16]}"

    def command(self, place: str) -> list[str]:
        """The words that start its Python; program and arguments follow. Nothing is read from the environment."""
        return [word.replace("{folder}", place) for word in self.manifest.start]

    def check_script(self, place: str) -> str:
        """POSIX shell: exit code 0 if the bundle lies at `place`."""
        return f"[ -f {shlex.quote(place + '/' + MANIFEST)} ]"

    def unpack_script(self, archive: str, place: str) -> str:
        """POSIX shell (mksh and toybox will do) that unpacks `archive` (gzipped or plain) and removes it.

        The bundle appears whole under `place`, also when two do this at once. A failure leaves nothing behind and
        tells on stderr, with exit code 1.
        """
        archive, place, part = (shlex.quote(word) for word in (archive, place, place + ".part"))
        return (
            f'part={part}.$$; mkdir -p "$part" && '
            f'{{ tar -xzf {archive} -C "$part" || gzip -dc {archive} | tar -xf - -C "$part" '
            f'|| tar -xf {archive} -C "$part"; }} && '
            f'[ -f "$part/{MANIFEST}" ] && {{ [ -d {place} ] || mv "$part" {place}; }}; code=$?; '
            f'rm -rf "$part" {archive}; [ $code -eq 0 ] && [ -f {place}/{MANIFEST} ]'
        )

    def verify(self) -> None:
        """Read the whole archive and hold it against the manifest. Raises `BadProfile`."""
        try:
            with self.archive.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BadProfile(f"bundle {self.folder}: {ARCHIVE} cannot be read: {error}; make it again") from error
        expected = self.manifest.archive_sha256
        if found != expected:
            raise BadProfile(
                f"bundle {self.folder}: {ARCHIVE} has the sha256 {found[:12]}, its manifest says {expected[:12]}; "
                f"make it again: autotune targets bundle {self.folder}"
            )


def read_bundle(path: Path | str) -> Bundle:
    """The bundle in folder `path` (or whose `bundle.json` is `path`). The archive is not read; see `Bundle.verify`.

    Raises `BadProfile` with what to do.
    """
    folder = Path(path).expanduser()
    folder = folder.parent if folder.name == MANIFEST else folder
    make = f"make one: autotune targets bundle {folder}"
    try:
        text = (folder / MANIFEST).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        raise BadProfile(f"bundle {folder}: no {MANIFEST} can be read ({reason}); {make}") from error
    try:
        manifest = Manifest.model_validate(json.loads(text))
    except (json.JSONDecodeError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise BadProfile(f"bundle {folder}: {MANIFEST} is not a manifest of this version ({first}); {make}") from error
    bundle = Bundle(folder, manifest)
    try:
        size = bundle.archive.stat().st_size
    except OSError as error:
        raise BadProfile(f"bundle {folder}: {ARCHIVE} is missing; {make}") from error
    if size != manifest.size:
        raise BadProfile(f"bundle {folder}: {ARCHIVE} has {size} bytes instead of {manifest.size}; {make}")
    return bundle
