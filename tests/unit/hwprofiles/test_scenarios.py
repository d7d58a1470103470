"""Scenarios by name and by file; what is wrong is said with file, line and the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles.errors import BadScenario
from hwprofiles.openings import LEAST_PAIRS
from hwprofiles.scenario import FINAL, SEARCH
from hwprofiles.scenarios import SCENARIOS, find_scenario
from hwprofiles.statistics import LEAST_OPENINGS, pairs_per_opening


def test_shipped_names() -> None:
    assert find_scenario("search") is SEARCH and find_scenario("final") is FINAL
    assert find_scenario("quick").max_seconds < SEARCH.max_seconds
    assert find_scenario("quick").min_pairs >= LEAST_PAIRS["search"]  # or each of its measurements were flagged


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_shipped_scenario_has_several_openings(name: str) -> None:
    scenario = SCENARIOS[name]
    opening = pairs_per_opening(scenario.generation_pairs, scenario.min_pairs)
    assert scenario.min_pairs / opening >= LEAST_OPENINGS


def test_a_file_with_shapes(tmp_path: Path) -> None:
    file = tmp_path / "line.toml"
    file.write_text(
        "phase = 'final'\nmax_seconds = 9.5\n[shapes.short]\nx = [1, 3, 48, 160]\n[shapes.long]\nx = [1, 3, 48, 640]\n"
    )
    scenario = find_scenario(str(file))
    assert scenario.max_seconds == 9.5 and scenario.phase == "final"
    assert scenario.shapes == {"short": {"x": (1, 3, 48, 160)}, "long": {"x": (1, 3, 48, 640)}}
    assert scenario.min_pairs == SEARCH.min_pairs


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("batch = 1\nmax_second = 3\n", 2, "did you mean 'max_seconds'"),
        ("batch = 1\n\nmin_pairs = 'many'\n", 3, "min_pairs"),
        ("batch = 0\n", 1, "batch"),
        ("batch = 1\nbatch = 2\n", 2, "not TOML"),
        ("seed = 1\n[shapes.a]\nx = [1, 'b']\n", 3, "shapes.a.x.1"),
        ("seed = 1\n[shapes.a]\nx = [1, 0]\n", 2, "positive dimensions"),
        ("seed = 1\n[shapes.a]\n", 2, "must name inputs"),
        ("min_pairs = 30\nmax_pairs = 20\n", 2, "less than min_pairs"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, line: int, hint: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(BadScenario) as caught:
        find_scenario(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: ") and hint in message and "\n" not in message


def test_what_is_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(BadScenario, match="did you mean 'quick'"):
        find_scenario("quik")
    with pytest.raises(BadScenario, match="cannot be read: No such file"):
        find_scenario(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadScenario, match="cannot be read"):
        find_scenario(tmp_path / "bytes.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(BadScenario, match="too large"):
        find_scenario(tmp_path / "huge.toml")
