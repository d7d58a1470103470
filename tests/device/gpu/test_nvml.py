"""A real card's answers: complete, of the right size, and moving in the right direction."""

from __future__ import annotations

import os
import re
import time

import pytest

from hwprofiles.agent import accelerator, cuda, energy, nvml
from tests.device.gpu.cards import need_card, need_torch_cuda

pytestmark = pytest.mark.gpu


def test_the_driver_and_nvml_speak_of_the_same_card() -> None:
    need_card()
    seen, told = cuda.probe(), nvml.identity()
    assert told["name"] == seen["name"] and told["compute_capability"] == seen["compute_capability"]
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", told["driver"]) and told["cuda"] == seen["cuda"]
    assert told["memory_bytes"] == pytest.approx(seen["memory_bytes"], rel=0.1)
    assert nvml.sentence(told).startswith(told["name"])


def need_nvml() -> None:
    """Skip the test, with the reason, where NVML cannot be asked about the card."""
    need_card()
    try:
        nvml.open_card()
    except nvml.NvmlProblem as error:
        pytest.skip(f"NVML: {error}")


def test_a_reading_is_plausible() -> None:
    need_nvml()
    told = nvml.open_card().reading()
    for key, low, high in (
        ("clock_hz", 1e8, 4e9),
        ("memory_clock_hz", 1e8, 2e10),
        ("temperature_c", 5, 110),
        ("power_w", 1, 2000),
        ("energy_j", 0, 1e12),
        ("used_bytes", 0, 1 << 39),
    ):
        assert told[key] is None or low <= told[key] <= high, (key, told[key])
    assert told["clock_hz"] is not None and told["temperature_c"] is not None


def test_memory_and_energy_follow_what_torch_does() -> None:
    need_torch_cuda()
    need_nvml()
    import torch

    card = nvml.open_card()
    torch.zeros(1, device="cuda")  # the context
    before = card.held_bytes(os.getpid())
    counter = energy.CardCounter(card, [os.getpid()])
    held = torch.ones(1 << 28, device="cuda")  # a gibibyte
    torch.cuda.synchronize()
    told = accelerator.grown(before, card.held_bytes(os.getpid()))
    assert told["process"] == pytest.approx(1 << 30, rel=0.02), told
    until = time.monotonic() + 3
    while time.monotonic() < until:
        held = held * 1.0
        torch.cuda.synchronize()
    if counter.source:
        power = counter.joules() / 3
        limit = card.identity()["power_limit_w"]
        assert 5 < power < (limit or 2000) * 1.1
