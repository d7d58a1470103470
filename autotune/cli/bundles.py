"""`autotune targets bundle`: Python, numpy and ONNX Runtime in one archive, for devices that have none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.output import JsonFlag, print_json, results, say, shown

OutArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder for the bundle; one that is there is replaced.")
]
PythonOption = Annotated[str, typer.Option("--python", metavar="VERSION", help="Python in the bundle: 3.11 or 3.13.")]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        "--onnxruntime", metavar="VERSION", help="Version of ONNX Runtime; by default the one that is installed here."
    ),
]
MirrorOption = Annotated[
    str | None, typer.Option("--mirror", metavar="URL", help="Where Debian's packages are loaded from.")
]
EmulateFlag = Annotated[
    bool,
    typer.Option(
        "--emulate", help="Also unpack it for qemu and write the target aarch64-emulated, for answers without a phone."
    ),
]


def bundle(
    out: OutArgument,
    python: PythonOption = "3.11",
    onnxruntime: RuntimeOption = None,
    mirror: MirrorOption = None,
    emulate: EmulateFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Make the bundle that lets Android phones and bare aarch64 Linux run ONNX Runtime.

    About 50 MB of Debian's and PyPI's packages are loaded. Needs neither root nor a phone.

    The transports adb and ssh send it: targets add my-phone --like android-adb --bundle OUT
    """
    from hwprofiles.mobile.build import build_bundle
    from hwprofiles.mobile.emulation import find_emulator, prepare_emulation
    from hwprofiles.mobile.packages import MIRROR

    if emulate:
        find_emulator()  # before half a minute of work
    made = build_bundle(out, python=python, onnxruntime=onnxruntime, mirror=mirror or MIRROR, say=say)
    profile = prepare_emulation(made, out / "emulated") if emulate else None
    if as_json:
        facts = made.manifest.model_dump(mode="json")
        print_json({**facts, "folder": str(out), "profile": None if profile is None else str(profile)})
        return
    console = results()
    for name in ("onnxruntime", "numpy"):
        console.print(f"{name}: {made.manifest.version_of(name)}", markup=False)
    console.print(f"python: {made.manifest.python}", markup=False)
    console.print(f"label: {made.label}", markup=False)
    console.print(f"digest: {made.digest}", markup=False)
    console.print(f"use: autotune targets add my-phone --like android-adb --bundle {shown(made.folder)}", markup=False)
    if profile is not None:
        console.print(f"use: autotune targets probe {profile.stem} --folder {shown(out)}", markup=False, soft_wrap=True)
