"""The noise floor: the original against itself, run in another way. A drop no larger than that says nothing.

Varied are the number of threads, the batches, the provider, and, where the runtime builds engines, the build.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict

from autotune.errors import TrialFailure
from autotune.judge.metrics import ResolvedMetric
from autotune.judge.predictions import Predictions, predict
from autotune.judge.scores import score
from autotune.slices import Mask
from autotune.workload import Dataset, Decode
from hwprofiles.device import Device, open_device
from hwprofiles.errors import BadProfile, DeviceFailure, TargetUnavailable
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.registry import RUNTIMES, load_plugin
from hwprofiles.runtimes.protocol import builds_engines
from hwprofiles.target import Target

_BATCH = 8
_THREADS = 4  # at most, where one is usual
# Of ONNX Runtime's list of providers: it computes nothing here, it sends the model to a service.
_NOT_HERE = ("AzureExecutionProvider",)


class NoiseFloor(BaseModel):
    """What the original loses against itself. `drops` and `flips`: slice -> the largest over the `variations`, named
    in words; `impossible` says which variations there could not be, and why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variations: tuple[str, ...] = ()
    impossible: tuple[str, ...] = ()
    drops: dict[str, float] = {}
    flips: dict[str, int] = {}

    @property
    def sentence(self) -> str:
        """For people."""
        if not self.variations:
            return f"The noise floor is not known: {'; '.join(self.impossible) or 'nothing could be varied'}."
        changed, drop = max(self.flips.values(), default=0), max(self.drops.values(), default=0.0)
        ways = ", ".join(self.variations)
        if not changed and not drop:
            return f"The original run another way ({ways}) gives every sample the same score: there is no noise."
        where = max(self.drops, key=lambda name: self.drops[name])
        return (
            f"The original run another way ({ways}) changes up to {changed} samples of a slice and "
            f"{100 * drop:.2f} points ({where})."
        )


@dataclass(frozen=True)
class Variation:
    """One other way to run the same model."""

    words: str
    target: Target
    batch: int


def noise_floor(
    model: Path,
    device: Device,
    dataset: Dataset,
    masks: Mapping[str, Mask],
    metrics: Sequence[ResolvedMetric],
    original: Predictions,
    decode: Decode,
    *,
    batch: int,
    workers: int,
    work: Path,
) -> NoiseFloor:
    """Run the original with other threads or from another build of its engine, in other batches and on every other
    provider of the same target.

    `original` is what it answered as it is judged, on `device`; `work` is a folder. A variation that cannot be run
    there is listed with the reason. Raises what the metrics raise.
    """
    target, found = device.target, device.fingerprint
    done: list[str] = []
    impossible: list[str] = []
    drops: dict[str, float] = {}
    flips: dict[str, int] = {}
    for variation in _variations(model, target, found, batch, impossible):
        try:
            with _opened(variation.target, device, work / f"noise-{len(done) + len(impossible)}") as other:
                again = predict(other, model, dataset, decode, batch=variation.batch, workers=workers)
        except (DeviceFailure, TrialFailure) as error:
            impossible.append(f"{variation.words}: {error.failure.message}")
            continue
        except (TargetUnavailable, BadProfile) as error:
            impossible.append(f"{variation.words}: {error}")
            continue
        done.append(variation.words)
        for place, metric in enumerate(metrics):
            scored = score(metric, [sample.label for sample in dataset.samples], original, again)
            for name, mask in masks.items():
                result = f"{metric.name}:{name}" if place else name
                drop = scored.compare(np.flatnonzero(mask)).drop.value
                drops[result] = max(drops.get(result, 0.0), abs(drop))
                flips[result] = max(flips.get(result, 0), sum(scored.flips(mask)))
    return NoiseFloor(variations=tuple(done), impossible=tuple(impossible), drops=drops, flips=flips)


def _opened(target: Target, device: Device, work: Path) -> AbstractContextManager[Device]:
    """The device itself where only the batches differ, which needs no other process."""
    return nullcontext(device) if target == device.target else open_device(target, work=work)


def _variations(
    model: Path, target: Target, found: Fingerprint, batch: int, impossible: list[str]
) -> Iterator[Variation]:
    runtime = load_plugin(RUNTIMES, target.runtime, target=target.name)
    threads = 1 if target.threads > 1 else min(_THREADS, found.cores)
    if builds_engines(runtime):  # an engine runs on the card, whose threads are no choice
        rebuilt = runtime.another_build(target)
        if rebuilt is not None:
            yield Variation("another engine build", rebuilt, batch)
        else:
            impossible.append(f"another engine build: {target.runtime} builds the same engine every time")
    elif threads != target.threads:
        words = f"{threads} threads" if threads > 1 else "1 thread"
        yield Variation(words, target.model_copy(update={"threads": threads}), batch)
    else:
        impossible.append("another number of threads: the target has one core")
    if batch > 1:
        yield Variation("samples one by one", target, 1)
    elif _takes_batches(model):
        yield Variation(f"batches of {_BATCH}", target, _BATCH)
    else:
        impossible.append("other batches: the model takes one sample at a time")
    for provider in found.providers:
        if provider != target.provider and provider not in _NOT_HERE:
            yield Variation(provider, target.model_copy(update={"provider": provider}), batch)


def _takes_batches(model: Path) -> bool:
    """True where every input has a first axis that is not fixed."""
    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    shapes = [port.type.tensor_type.shape.dim for port in graph.input if port.name not in weights]
    return bool(shapes) and all(len(shape) > 0 and not shape[0].HasField("dim_value") for shape in shapes)
