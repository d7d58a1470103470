"""A study on this machine and on one behind a real sshd that loses its power in the middle of a trial."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.search.progress import Progress
from autotune.search.study import Study
from tests.device.sshd import Sshd
from tests.end_to_end import tiny

PROFILE = """
transport = "ssh"
python = {python}
timeout = 60.0

[options]
host = {host}
config = {config}
quiet_wait = 0
quiet_wait_final = 0
"""


@pytest.mark.parametrize("after", [0.05, 0.6])
def test_a_power_cut_in_the_middle_of_a_trial_costs_nothing(
    own_sshd: Callable[..., Sshd], tmp_path: Path, after: float
) -> None:
    """Whenever it happens: while kernels are read here, while it measures there, or between the two."""
    server = own_sshd()
    facts = {"python": server.python, "host": server.host, "config": server.config}
    (tmp_path / "far.toml").write_text(PROFILE.format(**{name: json.dumps(str(fact)) for name, fact in facts.items()}))
    (tmp_path / "local.toml").write_text((tiny.TARGETS / "local.toml").read_text())
    power = threading.Timer(after, server.stop)
    said: list[str] = []

    def watch(progress: Progress) -> None:
        said.append(progress.message)
        if progress.message == "trial 2" and said.count("trial 2") == 1:
            power.start()
        elif progress.message == "trying target far again":
            power.join()
            server.start()

    patience = {"pauses": [0.3], "seconds": 30.0}
    config = tiny.config(targets=("local", "far"), patience=patience, search={"trials": 4})
    with Study.open(config, tiny.workload(), store=tmp_path / "store.db", folder=tmp_path) as study:
        summary = study.run(watch)
        trials = study.store.trials()
    power.join()
    assert summary.trials == 5 and not summary.gone and not summary.waiting and summary.finalists
    assert any("target far is paused" in message for message in said) and "target far is back" in said
    for trial in trials:
        assert trial.state in ("complete", "rejected"), trial.failure
        measured = [(m.target, m.scenario.phase) for m in trial.measurements]
        assert len(measured) == len(set(measured)) and all(m.failure is None for m in trial.measurements)
        if trial.state == "complete":
            assert {"latency_ratio@local", "latency_ratio@far", "drop/worst"} <= set(trial.metrics)
