"""`autotune targets`, as typed: list, show, probe, add, remove, release."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hwprofiles.runtimes.reference_runner as reference
from autotune.cli import main
from hwprofiles.device import open_keeper
from hwprofiles.errors import TargetLost
from hwprofiles.registry import find_target, user_folder

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: object, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        found = main(["targets", *(str(word) for word in words)])
        out, err = capsys.readouterr()
        assert found == code, f"{words}: {found}\n{out}\n{err}"
        assert "Traceback" not in err and (code == 0 or len(err.strip().splitlines()) == 1 or "probing" in err)
        return out, err

    return command


def read(run: Run, *words: object) -> Any:
    return json.loads(run(*words, "--json")[0])


def profile(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text)


def test_list_parts_what_is_usable_from_templates(run: Run) -> None:
    found = {target["name"]: target for target in read(run, "list")["targets"]}
    assert found["local"]["needs"] == [] and found["local"]["origin"] == "shipped"
    assert found["rpi5"]["needs"] == ["a host (--host)"]
    assert any("onnxruntime-gpu" in need for need in found["h200"]["needs"])
    out, _ = run("list")
    usable, templates = out.split("templates: ")
    assert " local " in usable and " rpi5 " not in usable and " rpi5 " in templates and "a host (--host)" in templates
    assert "hardware" in usable and "android-termux" in templates


def test_list_says_who_shadows_whom_and_what_cannot_be_read(run: Run, tmp_path: Path) -> None:
    profile(user_folder(), "local", "threads = 3")
    profile(user_folder(), "broken", "threads = = 1")
    profile(tmp_path, "board", 'transport = "nowhere"\nruntime = "runner"\n[options]\nrunner = "/no/such/runner"')
    found = read(run, "list", "--folder", tmp_path)
    origins = {target["name"]: target["origin"] for target in found["targets"]}
    assert (origins["local"], origins["board"], origins["t4"]) == ("user", "study", "shipped")
    assert [(entry["name"], entry["origin"]) for entry in found["shadowed"]] == [("local", "shipped")]
    assert [entry["name"] for entry in found["unreadable"]] == ["broken"]
    (needs,) = [target["needs"] for target in found["targets"] if target["name"] == "board"]
    assert needs == ["a package that brings the transport 'nowhere'", "its runner /no/such/runner, which is not there"]
    out, _ = run("list", "--folder", tmp_path)
    assert "shadowed: local (shipped)" in out and "unreadable: " in out and "broken.toml" in out


def test_show_gives_the_source_of_every_declared_fact(run: Run) -> None:
    out, _ = run("show", "jetson-agx-orin")
    assert "declares cores: 12 [Jetson AGX Orin Series Modules Data Sheet, NVIDIA" in out
    assert "declares isa: asimd asimdhp asimddp [Arm Cortex-A78AE Core Technical Reference Manual" in out
    assert "declares memory: 64 GiB" in out and "never tried by the authors" in out and "needs: a host" in out
    assert read(run, "show", "jetson-agx-orin")["declares"]["cores"] == 12
    run("show", "jetson", code=2)


def test_probe_shows_and_keeps_what_is_there(run: Run) -> None:
    out, err = run("probe", "local")
    for word in (
        "processor",
        "instruction sets:",
        "memory",
        "runtime: onnxruntime 1.",
        "providers there:",
        "fingerprint:",
    ):
        assert word in out
    assert "capabilities: kernels that ran" in out and "QLinearConv" in out
    assert "excluded: " in out and "the dialect cannot write it" in out
    kept = Path(os.environ["XDG_CACHE_HOME"]) / "hw-autotune" / "probes" / "local.json"
    assert str(kept) in err
    record = json.loads(kept.read_text())
    again = read(run, "probe", "local")
    assert record["key"] == again["key"] and record["provenance"] == "hardware" and again["cores"] >= 1
    assert again["capabilities"] == record["capabilities"] and "Conv float16" in again["capabilities"]["kernels"]
    assert [entry.name for entry in (kept.parent.parent / "capabilities").iterdir()] == [
        f"ort-cpu-{again['key']}-4.json"
    ]


def test_probe_tells_what_differs_from_what_is_declared(run: Run) -> None:
    run("add", "odd", "--set", "declares.isa=['sve2', 'avx_ng']", "--set", "declares.cores=4096", "--set", "threads=99")
    out, err = run("probe", "odd")
    assert "isa: DIFFERS: declared sve2 avx_ng, found no " in out and "cores: DIFFERS: declared 4096, found" in out
    assert "odd is not what its profile declares" in err and "odd asks for 99 threads and may use" in err
    assert [check["agrees"] for check in read(run, "probe", "odd")["declared"]] == [False, False]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["python=/no/such/python"], "/no/such/python"),
        (["provider=CUDAExecutionProvider"], "has no 'CUDAExecutionProvider'"),
        (["provider=AzureExecutionProvider"], "ran a small model on CPUExecutionProvider"),
    ],
)
def test_probe_without_runtime_or_provider_is_69(run: Run, settings: list[str], said: str) -> None:
    run("add", "mine", *(word for setting in settings for word in ("--set", setting)))
    _, err = run("probe", "mine", code=69)
    assert said in err.splitlines()[-1]


def test_probe_through_a_runner(run: Run) -> None:
    run("add", "native", "--runner", reference.__file__)
    out, _ = run("probe", "native")
    assert "runtime: runner reference-runner 1." in out and "numbers: hardware (runner reference_runner.py)" in out
    assert "QLinearConv" in out, "the reference runner tells its kernels"


def test_add_writes_a_profile_that_is_found(run: Run) -> None:
    out, err = run(
        *(
            "add",
            "my-pi",
            "--like",
            "rpi5",
            "--host",
            "pi@10.0.0.7",
            "--set",
            "threads=2",
            "--set",
            "declares.memory=8 GiB",
        ),
        *("--set", "options.port=2222", "--set", "policy.cpus=0-1", "--set", "description=the one on the shelf"),
    )
    assert "my-pi.toml" in out and "next: autotune targets probe my-pi" in err
    found, template = find_target("my-pi"), find_target("rpi5")
    assert (found.transport, found.threads, found.declares.memory) == ("ssh", 2, 8 << 30)
    assert found.options == {"host": "pi@10.0.0.7", "port": 2222} and found.policy.cpus == "0-1"
    assert found.source == template.source and found.sources == {**template.sources, "memory": "set by the user"}
    assert found.description == "the one on the shelf" and found.declares.cpu == "Cortex-A76"
    assert "name" not in tomllib.loads((user_folder() / "my-pi.toml").read_text())


def test_add_for_another_machine_does_not_take_this_ones_interpreter(run: Run) -> None:
    run("add", "base", "--set", "python=/opt/here/python")
    run("add", "box", "--like", "base", "--host", "box")
    assert (find_target("box").transport, find_target("box").python) == ("ssh", "python3")
    run("add", "phone", "--like", "android-termux", "--serial", "R5CT")
    phone = find_target("phone")
    assert (phone.transport, phone.python, phone.options, phone.label) == ("adb", None, {"serial": "R5CT"}, "")
    assert "a bundle" in run("add", "phone", "--like", "android-termux", "--serial", "R5CT", "--force")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["../up"], "'../up' is no name for a target"),
        (["x", "--like", "rpi6"], "unknown target 'rpi6'; did you mean 'rpi5'"),
        (["x", "--set", "thredas=2"], "unknown key 'thredas'; did you mean 'threads'"),
        (["x", "--set", "policy.cpu=big"], "unknown key 'policy.cpu'; did you mean 'cpus'"),
        (["x", "--set", "threads"], "write KEY=VALUE"),
        (["x", "--set", "=2"], "write KEY=VALUE"),
        (["x", "--set", "name=y"], "the name is the first argument"),
        (["x", "--set", "threads.x=2"], "key 'threads'"),
        (["x", "--set", "threads=2", "--set", "threads.x=2"], "'threads' is no table"),
        (["x", "--set", "threads=many"], "key 'threads'"),
        (["x", "--set", "options.x=[1, 2]"], "options.x"),
        (["x", "--set", "description=a\x1b[31m"], "cannot be printed"),
        (["x", "--like", "rpi5", "--host", "-oProxyCommand=x"], "option 'host' is '-oProxyCommand=x'"),
        (["x", "--like", "rpi5", "--set", "options.jump=-oProxyCommand=x"], "option 'jump' is '-oProxyCommand=x'"),
        (["x", "--like", "rpi5", "--host", "pi", "--set", "options.port=70000"], "a whole number from 1 to 65535"),
        (["x", "--like", "rpi5", "--host", "pi", "--set", "options.hots=a"], "no option 'hots'; did you mean 'host'"),
        (["x", "--like", "android-adb", "--serial", "-s"], "a serial number as `adb devices` shows it"),
        (["x", "--set", "transport=command", "--set", "options.prefix=env"], "a list of words"),
        (["x", "--set", "options.quiet_wiat=1"], "did you mean 'quiet_wait'"),
        (["x", "--runner", "/no/such/runner"], "the runner's file /no/such/runner is not there"),
        (["x", "--bundle", "/no/such/bundle"], "make one: autotune targets bundle /no/such/bundle"),
    ],
)
def test_add_refuses_what_cannot_be_meant(run: Run, words: list[str], said: str) -> None:
    _, err = run("add", *words, code=2)
    assert said in err
    assert not user_folder().exists() or not list(user_folder().iterdir())


def test_add_does_not_write_over_and_says_what_it_shadows(run: Run) -> None:
    assert "goes before the one of this name that ships" in run("add", "local", "--set", "threads=2")[1]
    assert "choose another name or give --force" in run("add", "local", code=2)[1]
    run("add", "local", "--set", "threads=5", "--force")
    assert find_target("local").threads == 5
    assert "local is now the one that ships" in run("remove", "local")[1]
    assert find_target("local").threads == 1


def test_remove_takes_only_the_users_own(run: Run) -> None:
    assert "ships with hw-autotune" in run("remove", "rpi5", code=2)[1]
    run("add", "my-pi", "--like", "rpi5")
    assert "did you mean 'my-pi'" in run("remove", "my-p", code=2)[1]
    run("remove", "my-pi")
    assert not list(user_folder().iterdir())
    run("add", "local", "--set", "threads=2")
    told = read(run, "remove", "local")
    assert told == {"target": "local", "removed": str(user_folder() / "local.toml"), "ships": True}
    assert find_target("local").threads == 1


def test_add_with_a_transport_from_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not installed is told as a need; one that knows of no check is taken as it is."""
    assert "a package that brings the transport 'pigeon'" in run("add", "bird", "--set", "transport=pigeon")[1]
    monkeypatch.delattr("hwprofiles.transports.local.LocalTransport.check")
    run("add", "odd", "--set", "options.quiet_wiat=1")


def test_release(run: Run, tmp_path: Path) -> None:
    assert "nobody" in run("release", "local")[0]
    with (
        pytest.raises(TargetLost),
        open_keeper(find_target("local"), work=tmp_path) as keeper,
        keeper.exclusive("timing something"),
    ):
        _, err = run("release", "local", code=75)
        assert "local is held by" in err and "timing something" in err and "--force" in err
        told = read(run, "release", "local", "--force")
        assert "timing something" in told["holder"]
    assert read(run, "release", "local")["holder"] is None


@pytest.mark.parametrize("command", ["list", "show", "probe", "add", "remove", "release", "bundle"])
def test_help_has_an_example(run: Run, command: str) -> None:
    assert f"Example: autotune targets {command}" in run(command, "--help")[0]


def test_force_changes_a_target_and_keeps_what_it_is(run: Run) -> None:
    """A GPU target that is given its interpreter later stays one: its advice is followed as it is printed."""
    _, err = run("add", "card", "--like", "h200", "--set", "options.tf32=false")
    assert "autotune targets add card --force ...; what you do not name stays as it is" in err
    _, err = run("add", "card", "--force", "--set", "python=/opt/gpu/python")
    assert "changed: python (none -> /opt/gpu/python)" in err.splitlines()
    card, template = find_target("card"), find_target("h200")
    assert (card.runtime, card.provider, card.dialect) == (template.runtime, template.provider, template.dialect)
    assert card.declares == template.declares and card.options == {"tf32": False}
    assert read(run, "add", "card", "--force", "--set", "threads=2")["changed"] == ["threads (1 -> 2)"]
    assert "nothing changed" in run("add", "card", "--force")[1]
    _, err = run("add", "card", "--like", "local", "--force")
    assert "runtime (onnxruntime-cuda -> onnxruntime)" in err and "python (/opt/gpu/python -> none)" in err
    assert find_target("card") == find_target("local").model_copy(update={"name": "card"})


def test_add_without_a_template_begins_with_the_one_of_that_name(run: Run) -> None:
    run("add", "h200-tensorrt", "--set", "python=/opt/trt/python")
    assert find_target("h200-tensorrt").runtime == "tensorrt"
    run("add", "mine")
    assert find_target("mine") == find_target("local").model_copy(update={"name": "mine"})


def test_force_does_not_guess_what_a_broken_profile_was(run: Run) -> None:
    profile(user_folder(), "card", "runtime = = 1")
    assert "write it anew with --like TEMPLATE --force" in run("add", "card", "--force", code=2)[1]
    run("add", "card", "--force", "--like", "h200")
    assert find_target("card").runtime == "onnxruntime-cuda"


def test_probe_without_a_name_goes_over_the_users_own(run: Run, tmp_path: Path) -> None:
    """What hangs, what is not there, what cannot be read and what works, side by side, and no probing of kernels."""
    out, err = run("probe")
    assert "you have no targets of your own" in err and not out
    bare = tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    run("add", "works", "--set", "declares.cores=4096")
    run("add", "card", "--like", "h200", "--set", f"python={bare}")
    run("add", "twin", "--like", "card")
    profile(user_folder(), "broken", "threads = = 1")
    profile(tmp_path / "study", "board", 'transport = "nowhere"')
    told = {look["name"]: look for look in read(run, "probe", "--folder", tmp_path / "study")["targets"]}
    assert set(told) == {"works", "card", "twin", "broken", "board"}
    assert {name for name, look in told.items() if look["there"]} == {"works"}
    assert told["works"]["found"].startswith("onnxruntime 1.") and "cores DIFFERS" in told["works"]["differs"][0]
    assert told["broken"]["missing"] == "cannot be read" and "unknown transport" in told["board"]["missing"]
    assert f"{bare} -m pip install numpy 'nvidia-ml-py" in told["card"]["problem"]
    out, err = run("probe")
    row = next(line for line in out.splitlines() if line.startswith(" card "))
    assert " no " in row and "pip install" not in row
    assert sum(line.startswith("card, twin: ") and "pip install" in line for line in out.splitlines()) == 1
    assert "local" not in out and "capabilities" not in out
    assert not (Path(os.environ["XDG_CACHE_HOME"]) / "hw-autotune" / "probes").exists()


@pytest.mark.parametrize(("request_seconds", "said"), [(1.0, "within 1 s"), (99.0, "no answer within 3 s")])
def test_probe_of_all_is_not_held_up_by_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_seconds: float, said: str
) -> None:
    """An interpreter that says nothing is given up by the limit of its request, and at last by that of its target."""
    monkeypatch.setattr("autotune.cli.targets_survey.REQUEST", request_seconds)
    monkeypatch.setattr("autotune.cli.targets_survey.PATIENCE", 3.0 if request_seconds == 99.0 else 60.0)
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 9\n")
    (tmp_path / "python").chmod(0o755)
    run("add", "mute", "--set", f"python={tmp_path / 'python'}")
    (look,) = read(run, "probe")["targets"]
    assert look["name"] == "mute" and not look["there"] and said in look["problem"]


def test_probe_of_one_takes_no_all(run: Run) -> None:
    assert "leave one of the two out" in run("probe", "local", "--all", code=2)[1]
