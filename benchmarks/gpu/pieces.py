"""Wheels that came in pieces, because each transfer to the machine is limited: joined and checked. Stdlib only.

    split -b 40M -d -a 3 NAME.whl NAME.whl.part- && sha256sum NAME.whl > NAME.whl.sha256

makes NAME.whl.part-000, NAME.whl.part-001 and so on, and what the whole must be.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

_PIECE = re.compile(r"(?P<whole>.+\.whl)\.part-(?P<number>\d{3})")
_CHUNK = 1 << 20


def join(folder: Path, into: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Join all pieces below `folder`: (wheel's name -> its sha256, wheel's name -> why it could not be joined).

    A wheel that `into` holds already with that digest stays. One of which pieces are missing, or that differs from
    `NAME.whl.sha256`, is not left there.
    """
    numbered: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.rglob("*.whl.part-*")):
        if found := _PIECE.fullmatch(path.name):
            numbered.setdefault(found["whole"], {})[int(found["number"])] = path
    joined: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, pieces in numbered.items():
        sums = sorted(folder.rglob(f"{name}.sha256"))
        words = sums[0].read_text().split() if sums else []
        absent = [f"{number:03d}" for number in range(max(pieces) + 1) if number not in pieces]
        if not words:
            refused[name] = f"{name}.sha256 is not there"
        elif absent:
            refused[name] = f"pieces {', '.join(absent)} are not there"
        elif _digest(into / name) == words[0]:
            joined[name] = words[0]
        else:
            into.mkdir(parents=True, exist_ok=True)
            part = into / f"{name}.joining"
            with part.open("wb") as whole:
                for number in sorted(pieces):
                    with pieces[number].open("rb") as piece:
                        shutil.copyfileobj(piece, whole, _CHUNK)
            if (digest := _digest(part)) == words[0]:
                part.replace(into / name)
                joined[name] = digest
            else:
                part.unlink()
                refused[name] = f"its {len(pieces)} pieces together have another sha256; is the last one missing?"
    return joined, refused


def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
