"""Puts unpacked packages together into the folder that a bundle is: trimmed, relocatable, complete.

bin/python3.11                      the interpreter
lib/ld-linux-aarch64.so.1, lib/*    its loader and every library that is needed, under the name it is asked for by
lib/python3.11/                     the standard library
lib/python3/dist-packages/          numpy and ONNX Runtime: Debian's Python looks there by itself
licences/                           of everything that went in
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

from hwprofiles.errors import HardwareError
from hwprofiles.mobile.elf import read_elf

LOADER = "ld-linux-aarch64.so.1"
MACHINE = "aarch64"

# Nothing on a device asks for these: tests, development, other front ends, and modules of C libraries left out.
_STDLIB_OUT = re.compile(
    r"^(test|idlelib|lib2to3|distutils|ensurepip|venv|tkinter|turtledemo|pydoc_data|curses|dbm|sqlite3|wsgiref|xmlrpc"
    r"|config-[^/]*|__pycache__|EXTERNALLY-MANAGED|sitecustomize\.py|turtle\.py|antigravity\.py|this\.py|pydoc\.py"
    r"|lib-dynload/(_(test|xx|sqlite3|curses|dbm|gdbm|ssl|hashlib|crypt|ctypes_test|codecs_)|xx|nis|oss|readline|audioop)"
    r"[^/]*)(/|$)|/(tests?|__pycache__)/|_sysconfigdata__linux_"
)
_WHEEL_OUT = re.compile(
    r"/(tests?|testing/tests|__pycache__|include|f2py|distutils|_pyinstaller|doc)/|\.(pyi|a|h|pxd|pyx|c|ini)$"
    r"|^numpy/_core/[^/]*_tests\.[^/]*so$|^numpy/_core/lib/|/dist-info/(RECORD|WHEEL|entry_points\.txt)$|_tests\.cp[^/]*so$"
    r"|^onnxruntime/(tools|transformers|quantization|backend|datasets)/|^onnxruntime/capi/libonnxruntime\.so\."
    r"|\.dist-info/(RECORD|WHEEL|entry_points\.txt|top_level\.txt)$"
)


def assemble(debian: Path, wheels: Iterable[Path], python: str, out: Path) -> None:
    """Fill the empty folder `out` from unpacked Debian packages and wheels; `python` is "3.11".

    Raises `HardwareError` naming the library that is missing, or the file that was made for another machine.
    """
    (out / "bin").mkdir(parents=True)
    shutil.copyfile(debian / "usr" / "bin" / f"python{python}", out / "bin" / f"python{python}")
    _copy_stdlib(debian / "usr" / "lib" / f"python{python}", out / "lib" / f"python{python}")
    packages = out / "lib" / "python3" / "dist-packages"
    packages.mkdir(parents=True)
    for wheel in wheels:
        _unzip(wheel, packages)
    for text in sorted(debian.glob("usr/share/doc/*/copyright")):
        target = out / "licences" / text.parent.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(text, target)
    add_libraries(debian, out)
    for path in out.rglob("*"):
        if path.is_file():
            path.chmod(0o755 if path.name == LOADER or path.parent.name == "bin" else 0o644)


def _copy_stdlib(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_file() and not _STDLIB_OUT.search(name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


def _unzip(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if not member.is_dir() and not _WHEEL_OUT.search(member.filename):
                archive.extract(member, target)


def add_libraries(debian: Path, out: Path) -> None:
    """The closure of what interpreter and extension modules need, as plain files: no links, which tar may refuse."""
    known = {path.name: path for path in debian.rglob("*.so*") if "/python" not in str(path) and path.is_file()}
    own = {path.name for path in out.rglob("*.so*")}
    missing, queue = dict[str, str](), [path for path in sorted(out.rglob("*")) if path.is_file()]
    (out / "lib").mkdir(exist_ok=True)
    while queue:
        path = queue.pop()
        facts = read_elf(path)
        if facts is None:
            continue
        if facts.machine != MACHINE:
            raise HardwareError(f"{path.name} is made for {facts.machine}, not for {MACHINE}; this is a bug, report it")
        for name in facts.needed:
            if (out / "lib" / name).exists() or name in own:
                continue
            if name not in known:
                missing.setdefault(name, path.name)
                continue
            copy = out / "lib" / name
            shutil.copyfile(known[name], copy)
            queue.append(copy)
    if missing:
        told = ", ".join(f"{name} (for {user})" for name, user in sorted(missing.items()))
        raise HardwareError(f"the packages lack {told}; try another version of Python or ONNX Runtime")
    # The threads library asks for it by name when a thread is cancelled, so no header tells that it is needed.
    for name in (LOADER, "libgcc_s.so.1"):
        if not (out / "lib" / name).exists():
            shutil.copyfile(known[name], out / "lib" / name)
