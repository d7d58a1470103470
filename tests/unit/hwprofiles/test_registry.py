"""Profiles: where they are looked for, and what is said about a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles.errors import BadProfile, UnknownTarget
from hwprofiles.registry import RUNTIMES, find_target, list_targets, load_plugin, user_folder


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text)
    return folder


def test_local_always_exists() -> None:
    local = find_target("local")
    assert (local.threads, local.runtime, local.transport, local.dialect) == (
        1,
        "onnxruntime",
        "local",
        "ort-cpu",
    )
    assert find_target("local-2threads").threads == 2
    assert {"local", "local-2threads"} <= {target.name for target in list_targets()}


def test_every_shipped_profile_says_where_its_facts_come_from() -> None:
    assert all(target.source and target.description for target in list_targets())


def test_study_goes_before_user_goes_before_shipped(tmp_path: Path) -> None:
    write(user_folder(), "local", "threads = 3")
    assert find_target("local").threads == 3
    study = write(tmp_path / "study", "local", "threads = 4")
    assert find_target("local", folders=[study]).threads == 4
    assert [t.threads for t in list_targets([study]) if t.name == "local"] == [4]


@pytest.mark.parametrize("name", ["locl", "../local", "", "local/"])
def test_unknown_target_offers_the_nearest(name: str) -> None:
    with pytest.raises(UnknownTarget, match="local"):
        find_target(name)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("threads = 1\nthreds = 2", 2, "unknown key 'threds'; did you mean 'threads'"),
        ("\n\nthreads = 0", 3, "'threads'"),
        ('description = "x"\ntimeout = "soon"', 2, "'timeout'"),
        ("threads = 1\n[options]\nfan = [1, 2]", 2, "options.fan"),
        ('name = "pi"', 1, "differs"),
        ("threads = = 1", None, "line 1"),
        ("memory_limit = 1", 1, "'memory_limit'"),
    ],
)
def test_bad_profile_names_file_line_and_key(tmp_path: Path, text: str, line: int | None, said: str) -> None:
    folder = write(tmp_path / "study", "mine", text)
    with pytest.raises(BadProfile) as raised:
        find_target("mine", folders=[folder])
    assert str(folder / "mine.toml") + (f":{line}:" if line else "") in str(raised.value)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_bad_neighbour_does_not_matter(tmp_path: Path) -> None:
    folder = write(tmp_path / "study", "broken", "= = =")
    assert find_target("local", folders=[folder]).name == "local"


def test_unreadable_profile(tmp_path: Path) -> None:
    folder = write(tmp_path / "study", "mine", "")
    (folder / "mine.toml").write_bytes(b"description = '\xff'")
    with pytest.raises(BadProfile, match="cannot be read"):
        find_target("mine", folders=[folder])


def test_unknown_runtime_names_target_and_nearest() -> None:
    with pytest.raises(BadProfile, match="target 'pi': unknown runtime 'onnxruntme'; did you mean 'onnxruntime'"):
        load_plugin(RUNTIMES, "onnxruntme", target="pi")
