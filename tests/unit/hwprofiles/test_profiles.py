"""Every profile that ships: complete, sourced, and possible."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles.profile_text import as_toml
from hwprofiles.registry import RUNTIMES, list_profiles, load_plugin, make_target
from hwprofiles.target import Declared, Target

SHIPPED = {profile.name: profile for profile in list_profiles() if profile.origin == "shipped"}
WANTED = {
    *("local", "local-2threads", "x86-avx2", "x86-avx-vnni", "x86-avx512-vnni", "x86-amx", "rpi5", "apple-silicon"),
    *("jetson-orin-nano", "jetson-orin-nano-gpu", "jetson-agx-orin", "jetson-agx-orin-gpu"),
    *("android-termux", "snapdragon-8-gen3-termux", "snapdragon-8-elite-termux"),
    *("t4", "l4", "a10", "a100", "h100", "h200", "rtx-4090", "rtx-5090"),
    *("gpu-torch", "gpu-rtx"),
    *(f"{card}-tensorrt" for card in ("t4", "l4", "a10", "a100", "h100", "h200", "rtx-4090", "rtx-5090")),
}
TRIED = {"local", "local-2threads", "x86-avx-vnni", "x86-avx512-vnni", "x86-amx"}  # by the authors


def target(name: str) -> Target:
    found = SHIPPED[name].target
    assert found is not None, SHIPPED[name].problem
    return found


def test_the_hardware_that_people_have_is_there() -> None:
    assert set(SHIPPED) >= WANTED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_says_what_it_is_and_where_its_facts_come_from(name: str) -> None:
    found = target(name)
    assert found.source and found.description
    if not name.startswith(("local", "gpu-")) and found.provenance == "hardware":
        assert found.declares != Declared(), "a profile of named hardware declares what that is"
    declared = found.declares.model_dump(exclude_defaults=True)
    assert set(found.sources) <= set(declared), "a source for what is not declared"
    for other in found.sources.values():
        assert other and other != found.source


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_is_possible(name: str) -> None:
    found = target(name)
    assert found.declares.cores is None or found.threads <= found.declares.cores
    assert found.declares.memory is None or found.memory_limit <= found.declares.memory
    assert not set(found.declares.isa) & set(found.declares.lacks)
    if found.transport == "local" and found.provider == "CPUExecutionProvider" and found.provenance == "hardware":
        assert found.python is None
    if found.declares.accelerator:
        way = (found.runtime, found.provider, found.dialect)
        assert way in (("onnxruntime-cuda", "CUDAExecutionProvider", "ort-cuda"), ("tensorrt", "TensorRT", "tensorrt"))
        assert found.declares.compute_capability


@pytest.mark.parametrize("name", ["gpu-torch", "gpu-rtx", "h200", "h200-tensorrt"])
def test_its_runtime_takes_its_options(name: str) -> None:
    found = target(name)
    runtime = load_plugin(RUNTIMES, found.runtime, target=name)
    told = runtime.options(found)
    assert told["provider"] == found.provider and told.get("runtime", found.runtime) == found.runtime


@pytest.mark.parametrize("name", sorted(name for name in WANTED if name.endswith("-tensorrt")))
def test_both_profiles_of_a_card_declare_the_same(name: str) -> None:
    other = target(name.removesuffix("-tensorrt"))
    assert target(name).declares == other.declares and target(name).source == other.source


@pytest.mark.parametrize("name", sorted(WANTED - TRIED))
def test_what_was_never_tried_says_so(name: str) -> None:
    assert "never tried by the authors" in target(name).description or "not tried on such" in target(name).description


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_survives_being_written(name: str) -> None:
    import tomllib

    found = target(name)
    assert make_target({"name": name, **tomllib.loads(as_toml(found))}, "x") == found


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_is_in_the_documentation_with_its_sources(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs/targets.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    found = target(name)
    assert found.source in row and all(source in row for source in found.sources.values())
