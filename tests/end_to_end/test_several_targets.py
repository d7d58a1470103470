"""Two real targets in one study; one of them dies in the middle, and comes back or does not.

The second target is this machine through a command, or with an interpreter of its own: a script that starts nothing
while a flag lies beside it. Putting the flag there and killing its processes is what a reboot looks like from here.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from autotune import pareto
from autotune.api import choose
from autotune.api.watch import ProgressView
from autotune.bundle import export_bundle, verify_bundle
from autotune.errors import ConfigError
from autotune.report import write_report
from autotune.search.agreement import stored_parity
from autotune.search.progress import Progress
from autotune.search.study import RunSummary, Study
from autotune.store import open_store
from autotune.trial import Trial
from hwprofiles.errors import TargetUnavailable
from tests.end_to_end import tiny
from tests.end_to_end.test_cli import autotune, new_study

SCRIPT = """#!/bin/sh
if [ -e {folder}/down ]; then
    echo "no route to host" >&2
    exit 255
fi
echo $$ >> {folder}/started
exec {python} "$@"
"""
PROFILE = """
threads = 1
python = "{script}"

[options]
quiet_wait = 0.0
quiet_wait_final = 0.0
"""
COMMAND = """
threads = 2
transport = "command"
python = "{python}"

[options]
prefix = ["env"]
folder = "{folder}/far"
quiet_wait = 0.0
quiet_wait_final = 0.0
"""
EMULATED = """
threads = 1
provenance = "emulated"
"""
PATIENCE = {"pauses": [0.1, 0.2], "failures": 3, "waiting": 2, "seconds": 0.5}


class Machine:
    """A target that can be switched off: its profile `other` lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = folder / "python"
        script.write_text(SCRIPT.format(folder=folder, python=sys.executable))
        script.chmod(0o755)
        (folder / "other.toml").write_text(PROFILE.format(script=script))
        (folder / "local.toml").write_text((tiny.TARGETS / "local.toml").read_text())

    def switch_off(self, *, abruptly: bool = True) -> None:
        (self.folder / "down").touch()
        if not abruptly:
            return
        for pid in (self.folder / "started").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        (self.folder / "started").write_text("")

    def switch_on(self) -> None:
        (self.folder / "down").unlink(missing_ok=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def study(machine: Machine, *, targets: tuple[str, ...] = ("local", "other"), **changes: Any) -> Study:
    config = tiny.config(targets=targets, patience=PATIENCE, **changes)
    return Study.open(config, tiny.workload(), store=machine.folder / "store.db", folder=machine.folder)


def trials_of(machine: Machine) -> list[Trial]:
    with open_store(machine.folder / "store.db", "tiny", must_exist=True) as store:
        return store.trials()


def is_whole(trials: list[Trial]) -> bool:
    """Every complete trial was measured once on each target, and none was blamed for what a target did."""
    assert all(t.state in ("complete", "rejected") for t in trials), [t.failure for t in trials if t.failure]
    for trial in trials:
        seen = [(m.target, m.scenario.phase) for m in trial.measurements]
        assert len(seen) == len(set(seen)), "nothing is measured twice"
        assert all(m.failure is None for m in trial.measurements)
        if trial.state == "complete":
            assert {"latency_ratio@local", "latency_ratio@other", "drop/worst"} <= set(trial.metrics)
    return True


def test_two_targets_from_the_first_trial_to_the_bundle(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "other.toml").write_text(COMMAND.format(python=sys.executable, folder=tmp_path))
    limits = {"latency_ratio@other": 100.0}
    with study(machine, constraints=limits) as opened:
        summary = opened.run()
        assert not summary.gone and not summary.waiting and summary.trials == 7
        trials = opened.store.trials()
        assert is_whole(trials)
        final = [t for t in trials if t.final and t.number]
        assert final and {"latency_p50@local", "latency_p50@other", "memory_peak@other"} <= set(final[0].final)
        keys = opened.objectives
        assert [str(key) for key in keys] == ["size_bytes", "latency_ratio@local", "latency_ratio@other", "drop/worst"]
        choice = choose(trials, opened.config)
        assert {t.number for t in choice.front} and pareto.front(trials, keys)
        page = write_report(opened.store, tmp_path / "report.html").read_text()
        for word in ("Target other", "Peak memory on local", "The same answers on every target?"):
            assert word in page
        digest = final[0].artifact.digest if final[0].artifact else ""
        report = stored_parity(opened.store, digest)
        assert report is not None and {t.target for t in report.targets} == {"local", "other"}
        assert report.agrees and report.samples == 4
        folder = export_bundle(opened.store, final[0], tmp_path / "bundle", workload=tiny.workload())
    manifest = verify_bundle(folder)
    assert manifest["targets"]["local"]["threads"] == 1 and manifest["targets"]["other"]["threads"] == 2
    evidence = (folder / "evidence.json").read_text()
    assert str(machine.folder) not in evidence, "no path of this machine in what ships"
    assert '"parity": {' in evidence and '"conditions": {' in evidence


def run_with_a_loss(
    opened: Study, machine: Machine, *, lose_at: int, back_when: Callable[[Progress], bool]
) -> tuple[RunSummary, list[Progress]]:
    """Switch the machine off when `lose_at` trials are done, on again at the first message that `back_when` likes."""
    said: list[Progress] = []
    state = "on"

    def watch(progress: Progress) -> None:
        nonlocal state
        said.append(progress)
        if state == "on" and progress.stage == "search" and progress.done == lose_at:
            machine.switch_off()
            state = "off"
        elif state == "off" and back_when(progress):
            machine.switch_on()
            state = "on again"

    return opened.run(watch), said


def test_a_target_that_comes_back_has_paused_only_itself(machine: Machine) -> None:
    with study(machine) as opened:
        summary, said = run_with_a_loss(opened, machine, lose_at=2, back_when=lambda p: " waits for other" in p.message)
    assert summary.trials == 7 and not summary.gone and not summary.waiting and summary.finalists
    assert is_whole(trials_of(machine))
    assert any("target other is paused, next try in" in p.message for p in said)
    assert any("target other is back" in p.message for p in said)


def test_a_target_that_stays_away_ends_the_run_and_the_next_one_goes_on(machine: Machine) -> None:
    with study(machine) as opened:
        summary, said = run_with_a_loss(opened, machine, lose_at=2, back_when=lambda _: False)
    assert "target other is quarantined after" in summary.gone and "no route to host" in summary.gone
    assert summary.waiting and not summary.stopped and not summary.finalists
    assert any(p.stage == "search" and "other" in p.paused for p in said), "the progress line says who is paused"
    before = {t.number: t for t in trials_of(machine)}
    waiting = [before[number] for number in summary.waiting]
    assert len(waiting) <= PATIENCE["waiting"]  # type: ignore[operator]
    for trial in waiting:
        assert trial.state == "running" and trial.failure is None
        assert [m.target for m in trial.measurements] == ["local"], "what could be measured is recorded"
        assert trial.evaluations, "and judged, as the first target is there"
    with study(machine) as opened, pytest.raises(TargetUnavailable, match="measured on other, so it waits for it"):
        opened.run()
    assert {t.number: t for t in trials_of(machine)} == before, "an attempt costs nothing"

    machine.switch_on()
    with study(machine) as opened:
        summary = opened.run()
    after = trials_of(machine)
    assert summary.trials == 7 and not summary.gone and is_whole(after)
    for trial in waiting:
        local = [m for m in after[trial.number].measurements if m.target == "local" and m.scenario.phase == "search"]
        assert local == [*trial.measurements]


def test_judging_waits_for_the_first_target(machine: Machine) -> None:
    with study(machine, targets=("other", "local"), search={"trials": 3}) as opened:
        summary, _ = run_with_a_loss(opened, machine, lose_at=1, back_when=lambda p: " waits for other" in p.message)
    assert summary.trials == 4 and not summary.gone
    trials = trials_of(machine)
    assert is_whole(trials)
    assert {e.target for t in trials for e in t.evaluations} == {"other"}
    assert all(t.layers for t in trials), "kernels were read when it was back"


def test_finalists_wait_too(machine: Machine) -> None:
    lost = False

    def watch(progress: Progress) -> None:
        nonlocal lost
        if not lost and progress.message.startswith("measuring trial") and progress.message.endswith("on other"):
            lost = True
            machine.switch_off()
        elif "trying target other again" in progress.message:
            machine.switch_on()

    with study(machine, search={"trials": 2}) as opened:
        summary = opened.run(watch)
    assert lost and not summary.gone and summary.finalists
    final = [t for t in trials_of(machine) if t.final]
    assert all({"latency_p50@local", "latency_p50@other"} <= set(t.final) for t in final)


def test_answers_of_an_emulator_count_and_its_times_are_not_taken(machine: Machine) -> None:
    (machine.folder / "other.toml").write_text(EMULATED)
    objectives = ["size_bytes", "latency_ratio@local", "drop/worst"]
    with pytest.raises(ConfigError, match="latency_ratio@other, a default objective, is a cost on target 'other'"):
        study(machine)
    with study(machine, search={"trials": 2, "objectives": objectives}) as opened:
        assert any("target other is emulated: only what it answers counts" in w for w in opened.check().warnings)
        opened.run()
        final = next(t for t in opened.store.trials() if t.final and t.number)
        assert final.artifact is not None
        report = stored_parity(opened.store, final.artifact.digest)
    assert report is not None and [t.provenance for t in report.targets] == ["hardware", "emulated"]
    trials = trials_of(machine)
    assert {m.target for t in trials for m in t.measurements} == {"local"}
    assert not any(key.endswith("@other") for t in trials for key in (*t.metrics, *t.final))


def test_the_command_line_says_what_is_there_and_how_to_go_on(machine: Machine) -> None:
    """As above, by `autotune run`: exit code 69 after the front, the report and one line."""
    new_study(machine.folder, trials=2, more="[patience]\npauses = [0.1]\nseconds = 0\nwaiting = 1\n")
    folder = machine.folder / "tiny"
    (folder / "other.toml").write_text((machine.folder / "other.toml").read_text())
    text = (folder / "study.toml").read_text()
    head = 'targets = ["local"]'
    assert head in text
    (folder / "study.toml").write_text(text.replace(head, 'targets = ["local", "other"]'))
    autotune("check", "tiny", folder=machine.folder)

    machine.switch_off()
    said = autotune("run", "tiny", "--all-targets", folder=machine.folder, code=69).stderr
    assert "all of its targets are there" in said and said.count("\n") < 12

    machine.switch_on()
    with Off(machine, at="trial 1"):
        answer = autotune("run", "tiny", folder=machine.folder, code=69)
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("autotune: target other is quarantined after") and "no route to host" in last
    assert "1 trial is recorded, 1 trial waits for it; `autotune run tiny` goes on when it is back" in last
    assert "report: " in answer.stdout

    machine.switch_on()
    assert "report: " in autotune("run", "tiny", folder=machine.folder).stdout
    shown = [autotune("show", "tiny", str(number), folder=machine.folder).stdout for number in (1, 2)]
    assert any("parity on 4 held-out samples" in text and "  other: " in text for text in shown)


class Off:
    """Switches the machine off when the progress view is told `at`."""

    def __init__(self, machine: Machine, *, at: str) -> None:
        update = ProgressView.update

        def watched(view: ProgressView, progress: Progress) -> None:
            if progress.message == at:
                machine.switch_off()
            update(view, progress)

        self._patch = patch.object(ProgressView, "update", watched)

    def __enter__(self) -> None:
        self._patch.start()

    def __exit__(self, *_: object) -> None:
        self._patch.stop()
