"""Damage at equal size and latency: rounding to nearest against compensation, bias correction and equalisation.

    python benchmarks/rounding.py [--studies spam ocr] [--formats w4-b32 ...] [--ways gptq ...] [--samples 150]

For each study, format and way of rounding, all layers that read activations (products and convolutions, not tables) are
written in the format, and the artifact runs on `--samples` held-out inputs. Everything that is estimated (moments,
ranges) comes from `--calibration` of the study's calibration inputs. Damage is sum |dy|² / sum |y|² over all outputs, y
being the original's; its ratio to that of rounding to nearest has a 95 % interval from a bootstrap over samples. Also:
the mean Kullback-Leibler divergence of the classes' probabilities, the study's accuracy, and in one session beside that
of nearest the time of one inference (CPU seconds of the calling thread, medians of interleaved pairs). `insert` lets
`equalise` put a node in front of products where no scale can be folded. Formats that are offered on request only
(`RELATIVES`) are held against the one next to them, rounded in the same way: damage, size and time.

The studies say what they need; `HW_AUTOTUNE_SPAM_DATA` names the folder with the mails. Writes the result file and the
same name with `.md` anew after every format; rows of other studies, formats and ways stay, if nearest still does the
damage that they were held against.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime import GraphOptimizationLevel as Level
from rounding_pages import rounding_page
from scipy.special import log_softmax

from autotune.compress import calibration, moments
from autotune.compress.assembly import Assembler
from autotune.compress.calibration import Range
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import Ingested, load_model
from autotune.config import load_study, load_workload
from autotune.judge.metrics import resolve_metrics
from autotune.layers import Layer
from autotune.recipe import Recipe
from autotune.techniques.equalise import Equalise
from autotune.techniques.moments import Moments
from autotune.techniques.protocol import Technique
from autotune.techniques.quantize import ALL_CHOICES, FALLBACKS, Quantize
from autotune.workload import Arrays, Workload
from hwprofiles.statistics import ratio_interval

RESULT = Path(__file__).parent / "results" / "rounding.json"
FORMATS = (
    "w4-b32", "w4-b128", "w2-b32", "w8-load", "int8-static", "int8-dynamic", "int8-dynamic-o1%", "w4-b32-load",
    "nf4-b64-load",
)  # fmt: skip
# A format on request -> the one that it is an answer to. 4-bit steps have 5 bits a weight (a float32 scale for 32), NF4
# has 4.5 (one for 64); the page tells the sizes.
RELATIVES = {"int8-dynamic-o1%": "int8-dynamic", "nf4-b64-load": "w4-b32-load"}
WAYS: dict[str, dict[str, Any]] = {
    "nearest": {},
    "nearest, bias": {"bias_correction": True},
    "gptq": {"rounding": "gptq"},
    "gptq, bias": {"rounding": "gptq", "bias_correction": True},
}
# Of `equalise`, before nearest and before gptq; those of `INSERT` with a node in front of products.
INSERT = ", insert"
SCALES = ("cross-layer", "smooth-50%", "awq", f"smooth-50%{INSERT}", f"awq{INSERT}")
ALL_WAYS = [*WAYS, *(f"{scale}, {way}" for scale in SCALES for way in ("nearest", "gptq"))]
PAIRS = 15
BOOTSTRAPS = 2000


class Writable:
    """Capabilities of a target that runs all that the dialect writes."""

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler

    def supports(self, layer: Layer, choice: str) -> bool:
        return self._assembler.offers(layer, choice)


@dataclass(frozen=True)
class Subject:
    """A study's model, what its layers read, and what the original answers to the held-out inputs."""

    workload: Workload
    ingested: Ingested
    moments: Mapping[str, Moments]
    inputs: Sequence[Mapping[str, np.ndarray]]
    labels: Sequence[Any]
    answers: Sequence[Arrays]

    def assembler(self, *, insert: bool = False, **options: Any) -> Assembler:
        techniques: dict[str, Technique] = {
            "equalise": Equalise(insert=insert),
            "quantize": Quantize(ALL_CHOICES, **options),
        }
        made = Assembler(self.ingested.model, self.ingested.inspection.layers, OrtCpu(), techniques)
        made.tell_moments(self.moments)
        made.calibrate_with = lambda structure: ranges(made, structure, self.workload)
        return made


def session(model: bytes, level: Level = Level.ORT_ENABLE_ALL) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answers_of(
    model: bytes, inputs: Iterable[Mapping[str, np.ndarray]], level: Level = Level.ORT_ENABLE_ALL
) -> Iterable[dict[str, np.ndarray]]:
    opened = session(model, level)
    names = [output.name for output in opened.get_outputs()]
    for feeds in inputs:
        yield dict(zip(names, opened.run(names, dict(feeds)), strict=True))


def watched(
    model: bytes, wanted: Iterable[str], inputs: Iterable[Mapping[str, Any]]
) -> Iterable[dict[str, np.ndarray]]:
    """Activations of each input, those of the model's own inputs included."""
    probe = onnx.load_from_string(model)
    there = {value.name for value in [*probe.graph.output, *probe.graph.input]}
    wanted = tuple(wanted)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in there)
    inputs = list(inputs)
    for feeds, outputs in zip(inputs, answers_of(probe.SerializeToString(), inputs), strict=True):
        seen = outputs | {name: np.asarray(array) for name, array in feeds.items()}
        yield {name: seen[name] for name in wanted if name in seen and seen[name].dtype == np.float32}


def ranges(made: Assembler, structure: Recipe, workload: Workload) -> dict[str, Range]:
    wanted, model = made.calibration_tensors(structure), made.assemble(structure)
    statistics = calibration.collect(lambda: watched(model, wanted, workload.calibration))
    return {name: each.range("minmax") for name, each in statistics.items()}


def subject(study: str, samples: int, calibration_inputs: int) -> Subject:
    workload = load_workload(load_study(study))
    given = workload.calibration
    spread = np.unique(np.linspace(0, len(given) - 1, min(calibration_inputs, len(given))).astype(int))
    workload = replace(workload, calibration=[given[i] for i in spread])
    ingested = load_model(workload.model, example_inputs=workload.example_inputs, dynamic_axes=workload.dynamic_axes)
    made = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), {})
    original = made.assemble(Recipe())
    with tempfile.TemporaryDirectory() as folder:
        found = moments.collect(
            made.source, lambda wanted: watched(original, wanted, workload.calibration), Path(folder) / "moments"
        )
        found = {name: Moments(np.array(m.gram), m.mean, m.rows) for name, m in found.items()}
    # Evenly spread: held-out data are often sorted by slice.
    held = workload.heldout.samples
    held = [held[i] for i in np.unique(np.linspace(0, len(held) - 1, min(samples, len(held))).astype(int))]
    inputs = [sample.inputs for sample in held]
    return Subject(workload, ingested, found, inputs, [s.label for s in held], list(answers_of(original, inputs)))


def uniform(made: Assembler, choice: str) -> dict[str, str]:
    """The choice, or its nearest relative, for every layer that reads activations."""
    decisions = {}
    for name, layer in made.source.layers.items():
        if name in made.source.moments:
            pick = next((c for c in (choice, *FALLBACKS[choice]) if made.offers(layer, c)), None)
            if pick is not None:
                decisions[name] = pick
    return decisions


def scaled(made: Assembler, label: str) -> dict[str, str]:
    technique = made.techniques["equalise"]
    technique.survey(made.original())
    offered = {name: technique.choices(layer, Writable(made)) for name, layer in made.source.layers.items()}
    return dict(technique.uniform(offered)).get(label, {})


def damage(on: Subject, model: bytes, level: Level = Level.ORT_ENABLE_ALL) -> dict[str, Any]:
    """Sums of squares of each sample, divergence, accuracy."""
    predictions: list[Any] = []
    lost, size, divergence = [], [], []
    for expected, found in zip(on.answers, answers_of(model, on.inputs, level), strict=True):
        pairs = [(expected[name].astype(np.float64), found[name].astype(np.float64)) for name in expected]
        lost.append(sum(float(np.square(b - a).sum()) for a, b in pairs))
        size.append(sum(float(np.square(a).sum()) for a, b in pairs))
        p, q = pairs[0]
        if (p >= 0).all() and np.allclose(p.sum(-1), 1, atol=1e-3):  # probabilities already
            log_p, log_q = np.log(np.maximum(p, 1e-12)), np.log(np.maximum(q, 1e-12))
        else:
            log_p, log_q = log_softmax(p, axis=-1), log_softmax(q, axis=-1)
        divergence.append(float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()))
        predictions += on.workload.decode(found)
    metric = resolve_metrics(on.workload.metric)[0]
    return {
        "lost": np.array(lost),
        "size": np.array(size),
        "divergence": float(np.mean(divergence)),
        "accuracy": metric(predictions, list(on.labels)),
    }


def compared(lost: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Ratio of two sums over the same samples, with its 95 % interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(lost), (BOOTSTRAPS, len(lost)))
    low, high = np.quantile(lost[drawn].sum(1) / reference[drawn].sum(1), [0.025, 0.975])
    return {"ratio": float(lost.sum() / reference.sum()), "low": float(low), "high": float(high)}


def slower(model: bytes, reference: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, float]:
    """CPU time of `model` over that of `reference`, from interleaved pairs of runs."""
    sides = [session(reference), session(model)]
    for each in sides:
        each.run(None, dict(feeds))
    logs = []
    for pair in range(PAIRS):
        seconds = [0.0, 0.0]
        for side in (0, 1) if pair % 2 else (1, 0):
            begun = time.thread_time()
            sides[side].run(None, dict(feeds))
            seconds[side] = time.thread_time() - begun
        logs.append(float(np.log(seconds[1] / seconds[0])))
    ratio, low, high = ratio_interval(logs, seed=0)
    return {"ratio": ratio, "low": low, "high": high}


def artifact(on: Subject, choice: str, label: str) -> tuple[Recipe, bytes, float] | None:
    """All layers in a format, rounded in one of `ALL_WAYS`: (recipe, bytes, CPU seconds). None: nothing to scale."""
    scale, _, rest = label.rpartition(", ") if label not in WAYS else ("", "", label)
    made = on.assembler(insert=scale.endswith(INSERT), **WAYS[rest])
    scales = scaled(made, scale.removesuffix(INSERT)) if scale else {}
    if scale and not scales:
        return None
    recipe = Recipe({"equalise": scales, "quantize": uniform(made, choice)})
    begun = time.process_time()
    model = made.assemble(recipe)
    return recipe, model, time.process_time() - begun


def rows_of(study: str, on: Subject, choice: str, ways: Sequence[str]) -> Iterable[dict[str, Any]]:
    """One row per way, nearest first."""
    feeds = dict(on.workload.latency_inputs or on.inputs[0])
    reference: tuple[np.ndarray, bytes] | None = None
    for label in ["nearest", *(way for way in ALL_WAYS if way in ways and way != "nearest")]:
        built = artifact(on, choice, label)
        if built is None:
            continue  # nothing to scale in this model
        recipe, model, seconds = built
        found = damage(on, model)
        lost = found.pop("lost")
        reference = reference or (lost, model)
        formats = sorted(recipe["quantize"].values())
        yield {
            "study": study,
            "format": choice,
            "layers": {each: formats.count(each) for each in dict.fromkeys(formats)},
            "way": label,
            "scales": len(recipe["equalise"]),
            "samples": len(on.inputs),
            "calibration_inputs": len(on.workload.calibration),
            "relative_error": float(lost.sum() / found.pop("size").sum()),
            "against_nearest": compared(lost, reference[0]),
            **({"against_relative": beside(on, choice, label, model, lost)} if choice in RELATIVES else {}),
            **found,
            "size_bytes": len(model),
            "latency_against_nearest": slower(model, reference[1], feeds),
            "assemble_cpu_s": round(seconds, 2),
            "load_average": round(os.getloadavg()[0], 1),
        }


def beside(on: Subject, choice: str, label: str, model: bytes, lost: np.ndarray) -> dict[str, Any]:
    """A format on request against the one next to it, rounded in the same way."""
    built = artifact(on, RELATIVES[choice], label)
    assert built is not None  # what is scaled does not depend on the format
    return {
        "format": RELATIVES[choice],
        "damage": compared(lost, damage(on, built[1])["lost"]),
        "size": len(model) / len(built[1]),
        "time": slower(model, built[1], dict(on.workload.latency_inputs or on.inputs[0])),
    }


def place(row: Mapping[str, Any]) -> tuple[int, int]:
    """By format, then by way."""
    return FORMATS.index(row["format"]), ALL_WAYS.index(row["way"])


def merged(rows: Sequence[Mapping[str, Any]], new: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows with a new one in the place of its like.

    Raises `SystemExit` where nearest does other damage than the rows that stay were held against.
    """
    key = ("study", "format", "way")
    for row in rows:
        if all(row[name] == new[name] for name in key) and new["way"] == "nearest":
            before, now = row["relative_error"], new["relative_error"]
            stay = sum((r["study"], r["format"]) == (new["study"], new["format"]) for r in rows) > 1
            if stay and abs(now - before) > 1e-3 * before:
                sys.exit(
                    f"{new['study']} {new['format']}: nearest did a damage of {before:.6g} and does {now:.6g} now, so "
                    "rows of before do not compare with new ones: give --anew"
                )
    return [*(row for row in rows if any(row[name] != new[name] for name in key)), new]


def command(arguments: argparse.Namespace) -> str:
    """What was asked for, without the place of the result."""
    asked = ["--studies", *arguments.studies, "--formats", *arguments.formats, "--ways", *arguments.ways]
    asked += ["--samples", str(arguments.samples), "--calibration", str(arguments.calibration)]
    return shlex.join(["python", "benchmarks/rounding.py", *asked, *(["--anew"] if arguments.anew else [])])


def main() -> None:
    """Measure, print a line per way, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", default=["spam", "ocr"])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--ways", nargs="+", default=ALL_WAYS, choices=ALL_WAYS, help="beside nearest")
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--anew", action="store_true", help="forget the rows of these studies and formats")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    for study in arguments.studies:
        on = subject(study, arguments.samples, arguments.calibration)
        original = [prediction for answer in on.answers for prediction in on.workload.decode(answer)]
        facts = {"accuracy": resolve_metrics(on.workload.metric)[0](original, list(on.labels))}
        for choice in arguments.formats:
            rows = []
            for row in rows_of(study, on, choice, arguments.ways):
                rows.append(row)
                against = row["against_nearest"]
                print(
                    f"{study:6} {choice:18} {row['way']:22} {row['relative_error']:.3g} {against['ratio']:.3f} "
                    f"[{against['low']:.3f}, {against['high']:.3f}] KL {row['divergence']:.3g} accuracy "
                    f"{row['accuracy']:.3f} time {row['latency_against_nearest']['ratio']:.2f}",
                    flush=True,
                )
            write(arguments, study, facts, rows)


def write(arguments: argparse.Namespace, study: str, facts: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Put the rows of a format in the places of their likes, under a lock: studies may run beside each other."""
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        record: dict[str, Any] = json.loads(text) if text else {"commands": [], "studies": {}, "results": []}
        for row in record["results"]:  # of before they had one each
            row.setdefault("load_average", round(record["load_average"], 1))
        if arguments.anew:
            of = (study, rows[0]["format"])
            record["results"] = [row for row in record["results"] if (row["study"], row["format"]) != of]
        for row in rows:
            record["results"] = merged(record["results"], row)
        record["results"].sort(key=place)
        record["commands"] = list(dict.fromkeys([*record["commands"], command(arguments)]))
        record["studies"][study] = facts
        record |= {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        }
        file.truncate(0)
        file.write(json.dumps(record, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(rounding_page(record))


if __name__ == "__main__":
    main()
