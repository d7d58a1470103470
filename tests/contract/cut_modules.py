"""Torch modules with their exports, and what is asked of cuts of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import Ingested
from autotune.compress.modules.route import ModuleCuts
from autotune.techniques.moments import Moments
from autotune.techniques.prune import Prune
from autotune.techniques.simplify import Simplify


@dataclass
class Case:
    """A module, its export, and assemblers by route."""

    module: torch.nn.Module
    inputs: torch.Tensor
    ingested: Ingested
    axes: Mapping[str, Mapping[int, str]]

    def by(self, route: str, bank: Path | None = None, **options: object) -> tuple[Assembler, Prune]:
        prune = Prune(route=route, **{"round_to": 1, **options})  # type: ignore[arg-type]  # options of any kind
        if route != "graph":
            prune.cut_module(ModuleCuts(self.module, (self.inputs,), self.axes, self.ingested.source_digest))
        techniques = {"prune": prune, "simplify": Simplify()}
        layers = self.ingested.inspection.layers
        made = Assembler(self.ingested.model, layers, OrtCpu(), techniques, bank_folder=bank)
        made.tell_moments(self.moments())
        prune.survey(made.original())
        return made, prune

    def moments(self) -> dict[str, Moments]:
        """Made up, the same for both routes: what decides which channels go."""
        made = {}
        for number, layer in enumerate(self.ingested.inspection.layers):
            rows = layer.parameters // layer.shape[layer.output_axis]
            energy = np.random.default_rng(number).uniform(0.5, 2, (layer.group, rows)).astype(np.float32)
            gram = np.stack([np.diag(each) for each in energy])
            made[layer.name] = Moments(gram, np.zeros_like(energy), 16)
        return made


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


def decisions(prune: Prune, share: str) -> dict[str, str]:
    """Every unit that has the choice."""
    return {unit.layer: share for unit in prune.units() if share in unit.choices}
