"""What is for the one who finds the folder: README.md, and infer.py, which runs the model."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING

from autotune.bundle.evidence import config_of, last
from autotune.bundle.files import FIRST, Exported, engine_file, file_of
from autotune.keys import format_amount, parse_key
from autotune.search.agreement import doubts
from autotune.search.evidence import main_family, not_offered
from autotune.trial import Trial

if TYPE_CHECKING:
    from autotune.search.engines import Engine

_SHOWN_IN_README = ("size_bytes", "latency_p50", "latency_ratio", "uniform_ratio", "memory_peak", "energy_j", "drop")

_INFER = '''\
"""Run the model once on made-up input. Needs: pip install onnxruntime numpy"""
from pathlib import Path

import numpy as np
import onnxruntime as ort

session = ort.InferenceSession(Path(__file__).with_name("{model}"), providers={providers})
inputs = {{  # name: shape and type of what was measured; put your own arrays here
{inputs}
}}
for output, value in zip(session.get_outputs(), session.run(None, inputs)):
    print(output.name, value.dtype, value.shape)
'''

_README = """\
# {name}, trial {number}

A compressed ONNX model with its evidence, written by hw-autotune {version}.

- `model.onnx` runs in a plain `onnxruntime.InferenceSession`; `python infer.py` shows how.
- `report.html` shows how it was found and what it loses where.
- `evidence.json` holds every measurement and the outcome of every judged sample.
- `manifest.json` holds the sha256 of every file; `autotune.verify_bundle("{folder}")` checks them.

| metric | value | 95 % interval |
|---|---|---|
{rows}

Numbers are from {phase}. {remarks}Make it again with `{command}`.
"""


def infer(exported: Exported) -> str:
    """The program infer.py: the first target's model, on inputs of the shapes that were measured."""
    workload = exported.workload
    inputs = dict(workload.latency_inputs or workload.search.samples[0].inputs)
    lines = [f'    {n!r}: np.ones({tuple(a.shape)}, dtype="{a.dtype}"),' for n, a in inputs.items()]
    runs = main_family(config_of(exported.store).families)
    told = {"model": FIRST, "providers": '["CPUExecutionProvider"]'}
    if runs is not None:
        told = {"model": file_of(exported.trial, runs.judge), "providers": json.dumps([runs.provider])}
    return _INFER.format(inputs="\n".join(lines), **told)


def readme(exported: Exported, name: str) -> str:
    """README.md of a bundle in a folder of this name."""
    store, trial = exported.store, exported.trial
    values = trial.final or trial.metrics
    rows = []
    for text, value in sorted(values.items()):
        key = parse_key(text)
        if key.name in _SHOWN_IN_README or key.slice is None or key.slice == "worst":
            low, high = format_amount(value.low, key), format_amount(value.high, key)
            interval = "exact" if value.low == value.high else f"{low} to {high}"
            rows.append(f"| {text} | {format_amount(value.value, key)} | {interval} |")
    remarks = [f"On {m.target}: {', '.join(m.quality)}." for m in last(trial) if m.quality != ("ok",)]
    if trial.elsewhere:
        files = ", ".join(f"`{file_of(trial, target)}` for {target}" for target in config_of(store).targets)
        remarks.append(f"Each target has a file in its own dialect: {files}.")
    why_not = not_offered(store.trials(), trial, config_of(store))
    remarks += [f"On {target} this model is not offered: {why}." for target, why in why_not.items() if why]
    remarks += [_about(engine, trial) for engine in exported.engines]
    doubt = doubts(store, trial)
    remarks += [f"{doubt[0].upper()}{doubt[1:]}."] if doubt else []
    if "recover" in trial.recipe:
        remarks.append("Its weights were trained after compression; the study's store keeps them under their name.")
    return _README.format(
        name=store.study,
        number=trial.number,
        version=version("hw-autotune"),
        folder=name,
        rows="\n".join(rows),
        remarks="".join(f"{remark} " for remark in remarks),
        phase="a final measurement and held-out data" if trial.final else "the search",
        command=exported.command,
    )


def _about(engine: Engine, trial: Trial) -> str:
    """A sentence on a target's engine."""
    if engine.plan is None:
        return f"The engine that was measured on {engine.target} is not here: {engine.why}."
    ran = next(m.fingerprint for m in last(trial) if m.target == engine.target)
    return (
        f"`{engine_file(engine)}` is the very engine that was measured on {engine.target}; it runs with {ran.runtime} "
        f"{ran.runtime_version} on such a card ({ran.accelerator}) and nowhere else."
    )
