"""Tell techniques what they may want to know of a study before they look at its model: its targets, and its module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from autotune.compress.capabilities import Probed
from autotune.compress.ingest import Ingested
from autotune.errors import UsageError
from autotune.store import Store
from autotune.techniques.multiples import Liked, liked, words_of
from autotune.techniques.protocol import Technique
from autotune.workload import Workload
from hwprofiles.device import Device

_MEANING = "meaning/"  # key of the store: technique -> what its choices mean


def suit(
    techniques: Mapping[str, Technique],
    workload: Workload,
    ingested: Ingested,
    devices: Mapping[str, Device],
    probed: Mapping[str, Probed],
) -> None:
    """Call `suit` and `cut_module` of the techniques that have them. Raises `UsageError` where a technique cuts torch
    modules, the model is one, and what it needs is not installed."""
    for technique in techniques.values():
        tell: Callable[[Mapping[str, Liked]], None] | None = getattr(technique, "suit", None)
        if tell is not None:
            tell({name: _liked(device, probed[name], techniques) for name, device in devices.items()})
        if technique.stage == "torch" and not isinstance(workload.model, str | Path | onnx.ModelProto):
            from autotune.compress.modules.route import ModuleCuts  # the only way to torch-pruning

            bind: Callable[[ModuleCuts], None] | None = getattr(technique, "cut_module", None)
            if bind is not None:
                axes = workload.dynamic_axes
                bind(ModuleCuts(workload.model, workload.example_inputs, axes, ingested.source_digest))


def keep_meanings(store: Store, techniques: Mapping[str, Technique]) -> None:
    """Keep what the techniques' choices mean, as far as recipes do not say it.

    Raises `UsageError` where a study with trials that was begun otherwise is continued: they, their trained weights and
    what was learnt from them are about other models under the same recipes. After a mere `check` options may change.
    """
    begun = any(trial.number for trial in store.trials(details=False))
    for name, technique in techniques.items():
        meaning: Callable[[], dict[str, str]] | None = getattr(technique, "meaning", None)
        if meaning is None:
            continue
        now, before = meaning(), store.meta(_MEANING + name)
        changed = [key for key in now if isinstance(before, dict) and before.get(key, now[key]) != now[key]]
        if begun and isinstance(before, dict) and changed:
            what = ", ".join(f"{key} was {before[key]!r} and is {now[key]!r}" for key in changed)
            raise UsageError(
                f"technique {name}: study {store.study!r} was begun with other options ({what}), under which the same "
                "recipes are other models; set them back, give another --store, or rename the study"
            )
        store.set_meta(_MEANING + name, now)


def _liked(device: Device, probed: Probed, techniques: Mapping[str, Technique]) -> Liked:
    precise = any(technique.stage == "precision" for technique in techniques.values())
    choices: set[Any] = {choice for _, choice in probed.runs} if precise else set()
    return liked(device.fingerprint, words_of(choices))
