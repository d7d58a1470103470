"""Workloads that were not used while the search was developed: real models and real data out of packages.

- `filetypes`: magika's standard_v3_3 (0.78 M parameters, `pip install --no-deps magika==1.0.3`) names the type of
  source and text files of the packages and the system that are installed here; sliced by type and by size.
- `angles`: the text direction classifier of rapidocr-onnxruntime (0.14 M parameters) on rendered words, upright or
  upside down; sliced by typeface and by what happened to the page.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autotune.config import StudyConfig, load_study
from autotune.errors import DataError
from autotune.workload import Arrays, Dataset, Sample, Workload

TYPES = {  # file extension -> magika's name
    ".py": "python", ".json": "json", ".c": "c", ".h": "c", ".js": "javascript", ".html": "html", ".css": "css",
    ".xml": "xml", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".md": "markdown", ".rst": "rst", ".csv": "csv",
    ".sh": "shell", ".cpp": "cpp", ".svg": "svg", ".f90": "fortran", ".ini": "ini",
}  # fmt: skip
SYSTEM = ("/usr/share", "/usr/include", "/usr/lib/python3")
MOST_OF_A_TYPE = 260
SEARCH, CALIBRATION = 0.4, 64


def study(name: str) -> StudyConfig:
    """How it is searched: like a study that nobody tuned."""
    return StudyConfig.model_validate(
        {
            "name": name,
            "search": {"objectives": ("size_bytes", "latency_ratio@local", "drop/worst")},
            "techniques": {"simplify": {}, "quantize": {}},
            "judge": {"limit": 0.02, "floor": 60, "probe": 60},
        }
    )


def filetypes() -> Workload:
    """Files of this Python's packages and of the system; the label is what the extension says."""
    folder = _package("magika") / "models" / "standard_v3_3"
    config = json.loads((folder / "config.min.json").read_text())
    names = config["target_labels_space"]
    files: dict[str, list[Path]] = {}
    places = [Path(p) for p in sys.path if p.endswith("site-packages")] + [Path(p) for p in SYSTEM]
    for root in places:
        for path in sorted(root.rglob("*")):
            kind = TYPES.get(path.suffix)
            if kind is not None and path.is_file() and path.stat().st_size >= 64 and os.access(path, os.R_OK):
                files.setdefault(kind, []).append(path)
    draw = random.Random(0)
    chosen = [(kind, path) for kind, paths in sorted(files.items()) if len(paths) >= 40
              for path in draw.sample(paths, min(len(paths), MOST_OF_A_TYPE))]  # fmt: skip
    draw.shuffle(chosen)
    seen: set[bytes] = set()
    samples = []
    for index, (kind, path) in enumerate(chosen):
        data = path.read_bytes()
        vector = _ends(data, config)
        if vector.tobytes() not in seen:
            seen.add(vector.tobytes())
            metadata = {"type": kind, "bytes": len(data)}
            samples.append(Sample(f"{index:05d}", {"bytes": vector}, kind, metadata, path.name))
    calibration, rest = samples[:CALIBRATION], samples[CALIBRATION:]
    cut = int(len(rest) * SEARCH)
    return Workload(
        name="filetypes",
        model=folder / "model.onnx",
        search=Dataset("search", rest[:cut]),
        heldout=Dataset("heldout", rest[cut:]),
        calibration=[sample.inputs for sample in calibration],
        decode=lambda outputs: [names[i] for i in next(iter(outputs.values())).argmax(-1)],
        slices=["type", "bytes<2000"],
    )


def angles() -> Workload:
    """Words of the study `ocr`, half of them turned by 180 degrees."""
    task = _module(Path(load_study("ocr").folder) / "task.py")
    splits = task.make_samples(calibration=CALIBRATION, search=900, heldout=1500)
    model = _package("rapidocr_onnxruntime") / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"

    def turned(number: int, sample: Sample) -> Sample:
        x = np.asarray(sample.inputs["x"])[0]
        width = min(192, x.shape[2])
        page = np.full((3, 48, 192), x[0, 0, 0], np.float32)
        page[:, :, :width] = x[:, :, :width]
        over = number % 2 == 1
        page = page[:, ::-1, ::-1].copy() if over else page
        metadata = {key: sample.metadata[key] for key in ("typeface", "effect", "kind")}
        return Sample(sample.id, {"x": page[None]}, "180" if over else "0", metadata, None)

    made = {name: [turned(i, s) for i, s in enumerate(samples)] for name, samples in splits.items()}
    return Workload(
        name="angles",
        model=model,
        search=Dataset("search", made["search"]),
        heldout=Dataset("heldout", made["heldout"]),
        calibration=[sample.inputs for sample in made["calibration"]],
        decode=_direction,
        slices=["typeface", "effect", "kind"],
    )


def _direction(outputs: Arrays) -> list[str]:
    (scores,) = outputs.values()
    return [("0", "180")[int(i)] for i in scores.argmax(-1)]


def _ends(data: bytes, config: dict[str, int]) -> np.ndarray:
    """The beginning and the end of a file without white space around, as magika takes them: `[1, 2048]` int32."""
    block = config["block_size"]
    head, tail = data[:block].lstrip(), data[-block:].rstrip()
    beg, end, padding = config["beg_size"], config["end_size"], config["padding_token"]
    first = np.full(beg, padding, np.int32)
    first[: min(beg, len(head))] = np.frombuffer(head[:beg], np.uint8)
    last = np.full(end, padding, np.int32)
    kept = np.frombuffer(tail[-end:], np.uint8)
    last[end - len(kept) :] = kept
    return np.concatenate([first, last])[None]


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"this workload needs the package {name}: pip install --no-deps {name.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0])


def _module(path: Path) -> object:
    spec = importlib.util.spec_from_file_location("ocr_task", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ocr_task"] = module
    spec.loader.exec_module(module)
    return module


WORKLOADS: dict[str, Callable[[], Workload]] = {"filetypes": filetypes, "angles": angles}
