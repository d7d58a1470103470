"""What a runtime says of the card that it uses, the same for all of them. Runs on the device; Python 3.9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwprofiles.agent import nvml


def told(seen: Mapping[str, Any]) -> dict[str, Any]:
    """`accelerator`, `card` and `card_uuid` of a runtime's `describe`, for the card that `cuda.probe` has `seen`.

    The driver is asked by NVML, else by nvidia-smi; where neither tells, the card is what CUDA has seen, and
    `card_problem` says why no more is known.
    """
    found = {}
    try:
        named = nvml.identity(uuid=seen["uuid"])
    except nvml.NvmlProblem as error:
        named = {"uuid_hash": "", "driver": "unknown", "power_limit_w": None, "mig": None}
        found["card_problem"] = str(error)
    by_cuda = {key: value for key, value in seen.items() if key != "uuid"}
    card = {**by_cuda, **{key: value for key, value in named.items() if value not in ("", None) or key not in by_cuda}}
    return {**found, "accelerator": nvml.sentence(card), "card": card, "card_uuid": seen["uuid"]}
