"""Profiles: where they are looked for, and what is said about a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles.errors import BadProfile, UnknownTarget
from hwprofiles.registry import (
    RUNTIMES,
    check_name,
    find_profile,
    find_target,
    list_profiles,
    list_targets,
    load_plugin,
    make_target,
    remove_profile,
    user_folder,
    write_profile,
)
from hwprofiles.target import Declared, Policy, Target


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


def test_every_profile_is_listed_with_where_it_comes_from(tmp_path: Path) -> None:
    write(user_folder(), "local", "threads = 3")
    write(user_folder(), "mine", "threads = 4")
    write(user_folder(), "broken", "= = =")
    study = write(tmp_path / "study", "mine", "threads = 5")
    found = list_profiles([study])
    local = [(p.origin, p.shadowed) for p in found if p.name == "local"]
    assert local == [("user", False), ("shipped", True)]
    mine = [(p.origin, p.shadowed, p.target.threads) for p in found if p.name == "mine" and p.target]
    assert mine == [("study", False, 5), ("user", True, 4)]
    (broken,) = [p for p in found if p.name == "broken"]
    assert broken.target is None and "not TOML" in broken.problem and broken.place in broken.problem
    assert find_profile("mine", folders=[study]).origin == "study"


def test_written_profiles_are_found_and_removed() -> None:
    strange = Target(
        name="pi.2",
        description='quotes " and \\ and\nlines\x7f, ünï',
        python="/opt/a b/python",
        timeout=float("inf"),
        options={"host": "pi@pi", "prefix": ("sudo", "-n"), "share": False, "a key": 1.5},
        declares=Declared(memory=8 << 30, isa=("asimd",)),
        sources={"memory": "set by the user"},
        policy=Policy(cpus="4-7", max_temperature=75.5),
    )
    path = write_profile(strange)
    assert path.parent == user_folder() and find_target("pi.2") == strange
    with pytest.raises(BadProfile, match=r"have a target 'pi\.2' already"):
        write_profile(strange)
    write_profile(strange.model_copy(update={"threads": 2}), force=True)
    assert find_target("pi.2").threads == 2
    assert [entry.name for entry in user_folder().iterdir()] == ["pi.2.toml"]
    assert remove_profile("pi.2") == path and not path.exists()
    with pytest.raises(UnknownTarget, match=r"you have no target 'pi\.2'"):
        remove_profile("pi.2")


def test_what_ships_is_not_removed() -> None:
    with pytest.raises(UnknownTarget, match="'rpi5' ships with hw-autotune and is not yours"):
        remove_profile("rpi5")
    write(user_folder(), "rpi5", "threads = 1")
    remove_profile("rpi5")
    assert find_target("rpi5").threads == 4


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "-x", "a b", "x" * 101, "é"])
def test_names_that_no_target_can_have(name: str) -> None:
    with pytest.raises(BadProfile, match="is no name for a target"):
        check_name(name)


@pytest.mark.parametrize(("text", "size"), [("1 GiB", 1 << 30), ("512MB", 512_000_000), ("67108864", 64 << 20)])
def test_memory_may_be_written_with_a_unit(text: str, size: int) -> None:
    assert make_target({"name": "x", "memory_limit": text}, "here").memory_limit == size


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"memory_limit": "many"}, "here: key 'memory_limit': is not an amount of memory"),
        ({"declares": {"coers": 4}}, "here: unknown key 'declares.coers'; did you mean 'cores'"),
        ({"policy": {"cpu": "big"}}, "here: unknown key 'policy.cpu'; did you mean 'cpus'"),
        ({"declares": {"compute_capability": "nine"}}, "'declares.compute_capability'"),
    ],
)
def test_bad_facts_are_named(facts: dict[str, object], said: str) -> None:
    with pytest.raises(BadProfile) as raised:
        make_target({"name": "x", **facts}, "here")
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_other_toml_in_a_studys_folder_is_no_profile(tmp_path: Path) -> None:
    study = write(tmp_path, "study", 'name = "digits"\ntargets = ["local"]\n[search]\ntrials = 3')
    write(tmp_path, "pyproject", '[project]\nname = "x"')
    write(tmp_path, "board", "thread = 1\ntransport = 'ssh'")
    found = [profile for profile in list_profiles([study]) if profile.origin == "study"]
    assert [(profile.name, profile.target) for profile in found] == [("board", None)]
