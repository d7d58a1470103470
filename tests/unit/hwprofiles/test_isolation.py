"""Whatever the measured process does, it is one failure, and the next call works."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwprofiles.agent.processes import descendants
from hwprofiles.device import Device
from hwprofiles.errors import DeviceFailure, Failure, TargetLost, TargetUnavailable
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target
from hwprofiles.transports.local import LocalChannel, LocalTransport

OpenDevice = Callable[..., Device]
X = {"x": np.ones((1, 64), np.float32)}
GOOD = np.float32(1)

# Code in the device's process that misbehaves as the first element of the input says.
MISCHIEF = """

import ctypes, os, signal, subprocess, sys, time
_honest = Session.run

def _run(self, feed):
    what = int(feed["x"].flat[0])
    if what == 2:
        ctypes.string_at(0)
    if what == 3:
        os.abort()
    if what == 4:
        os._exit(0)
    if what == 5:
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == 6:
        for _ in range(500):
            os.write(1, b"model says hello " * 4000)
            os.write(2, bytes(range(256)) * 100)
        print("and print() too", flush=True)
    if what == 7:
        raise KeyError("a bug of the backend")
    if what == 8:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600) #" + os.getcwd()])
        os._exit(9)
    if what == 9:
        time.sleep(600)
    if what == 10:
        raise MemoryError("a clean one")
    return _honest(self, feed)

Session.run = _run
"""


class MischievousRuntime(OnnxRuntime):
    def backend(self) -> str:
        return super().backend() + MISCHIEF


def run(device: Device, model: Path, value: float = 1) -> np.ndarray:
    feed = {"x": np.full((1, 64), value, np.float32)}
    (out,) = device.infer(model, [feed])
    return out["y"]


def fail(device: Device, model: Path, feed: dict[str, np.ndarray]) -> Failure:
    with pytest.raises(DeviceFailure) as raised:
        list(device.infer(model, [feed]))
    failure = raised.value.failure
    assert "\n" not in failure.message and device.target.name in failure.message
    return failure


def processes(work: Path) -> list[int]:
    """Processes that have `work` in their command line or as their folder, zombies aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(work) in command:
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def no_orphans(tmp_path: Path) -> Iterator[None]:
    """After every test, when its devices are closed, nothing is left."""
    yield
    wait_until(lambda: not processes(tmp_path))


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        (2, "crash", "SIGSEGV"),
        (3, "crash", "SIGABRT"),
        (4, "crash", "exit code 0"),
        (5, "timeout", "within 3 s"),
        (7, "crash", "exit code 1"),
        (8, "crash", "exit code 9"),
        (9, "timeout", "within 3 s"),
        (10, "oom", "a clean one"),
    ],
)
def test_mischief_fails_alone(
    opened: OpenDevice, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    what: int, kind: str, said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # so that a grandchild carries the folder in its command line
    device = opened(MischievousRuntime(), timeout=3)
    expected = run(device, dense)
    failure = fail(device, dense, {"x": np.full((1, 64), what, np.float32)})
    assert (failure.kind, failure.stage) == (kind, "infer") and said in failure.message
    assert np.array_equal(run(device, dense), expected)


def test_the_place_of_a_crash_is_kept(opened: OpenDevice, dense: Path) -> None:
    device = opened(MischievousRuntime())
    failure = fail(device, dense, {"x": np.full((1, 64), 2, np.float32)})
    assert failure.traceback is not None and "string_at" in failure.traceback
    failure = fail(device, dense, {"x": np.full((1, 64), 7, np.float32)})
    assert failure.traceback is not None and "a bug of the backend" in failure.traceback


def test_prints_cannot_reach_the_protocol(opened: OpenDevice, dense: Path) -> None:
    device = opened(MischievousRuntime())
    expected = run(device, dense)
    np.testing.assert_allclose(run(device, dense, 6), expected * 6, rtol=1e-4)


def test_a_native_hang_ends_at_the_deadline(opened: OpenDevice, hang: Path, dense: Path) -> None:
    device = opened(timeout=2)
    failure = fail(device, hang, {"x": np.ones(1, np.float32)})
    assert failure.kind == "timeout"
    run(device, dense)


def test_a_huge_allocation_is_refused_before_it_is_touched(opened: OpenDevice, balloon: Path, dense: Path) -> None:
    device = opened(memory_limit=512 << 20)
    failure = fail(device, balloon, {"n": np.array([2 << 30], np.int64)})  # 8 GiB
    assert failure.kind == "oom"
    run(device, dense)


def test_the_watchdog_ends_a_process_that_grows(opened: OpenDevice, balloon: Path, dense: Path) -> None:
    device = opened(memory_limit=256 << 20)
    failure = fail(device, balloon, {"n": np.array([256 << 20], np.int64)})  # 1 GiB: fits its address space
    assert failure.kind == "oom" and "limit of 256 MiB" in failure.message
    run(device, dense)


@pytest.mark.parametrize("size", [0, 1, 40, 0.5, 0.99])
def test_truncated_model(opened: OpenDevice, wide: Path, tmp_path: Path, size: float) -> None:
    data = wide.read_bytes()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(data[: int(size * len(data)) if 0 < size < 1 else int(size)])
    assert fail(opened(), broken, X).kind == "bad_model"


def test_external_weights_are_refused(opened: OpenDevice, wide: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.onnx"
    onnx.save(onnx.load(wide), split, save_as_external_data=True, location="w.bin", size_threshold=0)
    failure = fail(opened(), split, X)
    assert failure.kind == "bad_model" and "one file" in failure.message


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ({"q": np.ones((1, 64), np.float32)}, "takes x tensor(float) ['batch', 64]; it was given q"),
        ({"x": np.ones((1, 65), np.float32)}, "invalid dimensions"),
        ({"x": np.ones((1, 64), np.float64)}, "double"),
    ],
)
def test_wrong_inputs(opened: OpenDevice, dense: Path, feed: dict[str, np.ndarray], said: str) -> None:
    failure = fail(opened(), dense, feed)
    assert failure.kind == "bad_model" and said in failure.message


def test_a_hang_while_measuring_is_in_the_record(opened: OpenDevice, hang: Path, dense: Path, quick: Scenario) -> None:
    device = opened(timeout=2)
    record = device.measure(hang, [{"x": np.ones(1, np.float32)}], scenario=quick)
    assert record.failure is not None and record.failure.kind == "timeout" and record.latency is None
    assert record.fingerprint == device.fingerprint and record.scenario == quick
    assert device.measure(dense, [X], scenario=quick).failure is None


def test_full_disk_is_a_failure_of_its_own(opened: OpenDevice, dense: Path, tmp_path: Path) -> None:
    class Cramped(OnnxRuntime):
        def backend(self) -> str:
            limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
            quiet = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
            return super().backend() + f"\nimport resource, signal\n{quiet}\n{limit}\n"

    failure = fail(opened(Cramped()), dense, X)
    assert failure.kind == "disk" and failure.stage == "load"
    assert str(tmp_path / "work") in failure.message and "free some space" in failure.message
    assert not list((tmp_path / "work").rglob("*.part"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"python": "/no/such/python"}, "set `python`"),
        ({"python": "/bin/false"}, "exit code 1"),
        ({"provider": "TensorrtExecutionProvider"}, "only CPUExecutionProvider"),
    ],
)
def test_unavailable_says_what_to_do(opened: OpenDevice, changes: dict[str, str], said: str) -> None:
    with pytest.raises(TargetUnavailable) as raised:
        opened(**changes)
    assert said in str(raised.value).replace("AzureExecutionProvider, ", "") and "'here'" in str(raised.value)


def test_missing_runtime_names_the_command(opened: OpenDevice) -> None:
    class Missing(OnnxRuntime):
        def backend(self) -> str:
            return "import no_such_runtime\n"

    with pytest.raises(TargetUnavailable, match=r"no_such_runtime.*pip install"):
        opened(Missing())


def test_unwritable_work_folder(target: Target) -> None:
    with pytest.raises(TargetUnavailable, match="/proc/nowhere"):
        Device(target, LocalTransport(), OnnxRuntime(), Path("/proc/nowhere"))


def test_agents_outlive_the_thread_that_opened_them(opened: OpenDevice, dense: Path) -> None:
    """PR_SET_PDEATHSIG follows the thread; a Device must not."""
    devices: list[Device] = []
    thread = threading.Thread(target=lambda: devices.append(opened()))
    thread.start()
    thread.join()
    run(devices[0], dense)


PARENT = """
import sys, threading, numpy as np
from pathlib import Path
from hwprofiles.device import Device
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from hwprofiles.target import Target
from hwprofiles.transports.local import LocalTransport
device = Device(Target(name="here"), LocalTransport(), OnnxRuntime(), Path(sys.argv[1]))
print("up", flush=True)
list(device.infer(Path(sys.argv[2]), [{"x": np.ones(1, np.float32)}] * 2, workers=2))
"""


def test_agents_die_with_their_parent_in_the_middle_of_a_hang(tmp_path: Path, hang: Path) -> None:
    work = tmp_path / "work"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(work), str(hang)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"up\n"
        wait_until(lambda: len(processes(work)) >= 3)  # the parent and two agents
        time.sleep(0.2)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes(work))


def test_end_of_input_ends_the_agent_in_the_middle_of_a_hang(opened: OpenDevice, hang: Path, dense: Path) -> None:
    """Whoever hung up, it was not the model: the device is lost, and found again by the next call."""
    device = opened()
    lost: list[TargetLost] = []

    def infer() -> None:
        with pytest.raises(TargetLost, match=r"'here'.*ended from outside") as raised:
            list(device.infer(hang, [{"x": np.ones(1, np.float32)}]))
        lost.append(raised.value)

    thread = threading.Thread(target=infer)
    thread.start()
    client = device._slots[0]._agent
    assert client is not None
    wait_until(lambda: "candidate" in client.sessions)
    time.sleep(0.2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, client._wire.requests)
    os.close(null)
    thread.join()
    assert lost
    run(device, dense)


def test_a_device_that_falls_silent_is_lost_and_its_model_not_to_blame(
    opened: OpenDevice, hang: Path, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cut cable looks from here: neither the agent nor the keeper of the lease answers, and nothing breaks."""
    monkeypatch.setattr("hwprofiles.lease._PATIENCE", 1.0)
    device = opened(timeout=3)
    run(device, dense)
    keeper = device._keeper._client
    assert keeper is not None and isinstance(keeper._wire, LocalChannel)
    (worker,) = descendants(keeper._wire.pid)
    outputs = device.infer(hang, [{"x": np.ones(1, np.float32)}])
    threading.Timer(1.0, os.kill, (worker, signal.SIGSTOP)).start()
    with pytest.raises(TargetLost, match="does not answer any more"):
        next(outputs)
    monkeypatch.setattr("hwprofiles.lease._PATIENCE", 15.0)
    run(device, dense)


def test_a_process_that_dies_while_idle_is_no_failure_of_any_model(opened: OpenDevice, dense: Path) -> None:
    device = opened()
    expected = run(device, dense)
    client = device._slots[0]._agent
    assert client is not None
    channel = client._wire
    assert isinstance(channel, LocalChannel)
    (worker,) = descendants(channel.pid)
    os.kill(worker, signal.SIGKILL)
    assert channel.ended(wait=30) is not None
    assert np.array_equal(run(device, dense), expected)


def test_another_machine_behind_the_same_name_is_refused(opened: OpenDevice, dense: Path) -> None:
    """After a reboot the device is found again, but only if it is the same one."""
    device = opened()
    run(device, dense)
    assert device._starter.fingerprint is not None
    device._starter.fingerprint = device._starter.fingerprint.model_copy(update={"cpu_model": "Z80", "cores": 1000})
    assert device._slots[0]._agent is not None
    device._slots[0]._agent.close()
    with pytest.raises(TargetUnavailable, match=r"'here'.*cores was 1000 and is \d+"):
        run(device, dense)


def test_two_connections_to_two_machines_are_noticed(opened: OpenDevice) -> None:
    device = opened()
    with pytest.raises(TargetUnavailable, match="two different machines"):
        device._slots[0].agent(boot="that of another machine")


@pytest.mark.parametrize("size", [1000, 100_000])
def test_large_inputs_travel_once(opened: OpenDevice, dense: Path, quick: Scenario, tmp_path: Path, size: int) -> None:
    device = opened()
    rows = size // 256
    feed = {"x": np.random.default_rng(0).normal(size=(rows, 64)).astype(np.float32)}
    assert device.measure(dense, [feed], scenario=quick).failure is None
    stored = [path for path in (tmp_path / "work" / "blobs").iterdir() if path.stat().st_size == rows * 256]
    assert len(stored) == (1 if size > 64 << 10 else 0)
    before = {path: path.stat().st_ino for path in stored}
    assert device.measure(dense, [feed], scenario=quick).failure is None
    device.kernels(dense, feed)
    assert {path: path.stat().st_ino for path in stored} == before


def test_outputs_that_are_not_finite_are_named(opened: OpenDevice, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Log", ["x"], ["y"]), helper.make_node("Identity", ["x"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("y", "z")],
    )
    path = tmp_path / "log.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    agent = opened()._slots[0].agent()
    agent.open("candidate", path, hashlib.sha256(path.read_bytes()).hexdigest())
    good, bad = ({"x": np.array(values, np.float32)} for values in ([1, 2, 3], [0, -1, 3]))
    assert agent.check_outputs("candidate", [good, good]) == []
    (said,) = agent.check_outputs("candidate", [good, bad])
    assert said == "output 'y': 2 of 3 values for input 1 are not finite"


@pytest.mark.skipif(os.getuid() != 0, reason="hiding the control groups takes root")
def test_without_control_groups_the_watchdog_ends_what_grows(
    opened: OpenDevice, balloon: Path, dense: Path, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    hide = 'mount -t tmpfs none /sys/fs/cgroup && exec "$0" "$@"'
    python.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{hide}' {sys.executable} \"$@\"\n")
    python.chmod(0o755)
    device = opened(python=str(python), memory_limit=256 << 20)
    assert device.fingerprint.environment["memory_guard"] == "watchdog+rlimit_as"
    failure = fail(device, balloon, {"n": np.array([256 << 20], np.int64)})  # 1 GiB: fits its address space
    assert failure.kind == "oom" and "limit of 256 MiB" in failure.message and "grew to" in failure.message
    run(device, dense)


def test_the_guard_in_force_is_told(opened: OpenDevice) -> None:
    guard = str(opened().fingerprint.environment["memory_guard"])
    assert guard in ("cgroup v1+rlimit_as", "cgroup v2+rlimit_as", "watchdog+rlimit_as")


def test_nothing_is_left_in_the_work_folder_but_the_cache(
    opened: OpenDevice, dense: Path, hang: Path, tmp_path: Path
) -> None:
    device = opened(timeout=2)
    fail(device, hang, {"x": np.ones(1, np.float32)})
    device.kernels(dense, X)
    device.close()
    device = opened()  # clears what the killed agent left
    device.close()
    left = sorted(str(p.relative_to(tmp_path / "work")) for p in (tmp_path / "work").rglob("*") if p.is_file())
    # The agent, the keeper of the lease, and the two models.
    assert [p.partition("-" if p.startswith("agent-") else "/")[0] for p in left] == [
        "agent",
        "agent",
        "blobs",
        "blobs",
    ]


class Liar(OnnxRuntime):
    """Changes what the agent answers: `lie` is a statement about `reply` and `arrays`, for the operation `op`."""

    def __init__(self, op: str, lie: str) -> None:
        self._patch = (
            "\nimport sys\nprogram = sys.modules['hwprofiles.agent.program']\n"
            f"honest_{op} = program.Agent._{op}\ndef lying_{op}(self, request, feeds):\n"
            f"    reply, arrays = honest_{op}(self, request, feeds)\n    {lie}\n    return reply, arrays\n"
            f"program.Agent._{op} = lying_{op}\n"
        )

    def backend(self) -> str:
        return super().backend() + self._patch


@pytest.mark.parametrize(
    ("op", "lie"),
    [
        ("time", "reply['blocks'] = None"),
        ("time", "reply['blocks'][0]['cpu'] = -1.0"),
        ("time", "arrays['wall'][0] = float('nan')"),
        ("time", "arrays = {}"),
        ("open", "reply['inputs'] = 'x'"),
        ("open", "reply['seconds'] = -1"),
        ("warm", "reply['count'] = 10 ** 12"),
        ("warm", "reply['typical'] = 1e9"),
        ("warm", "del reply['first']"),
        ("pressure", "reply['after']['load'] = 'high'"),
        ("pressure", "del reply['after']['psi_total']"),
        ("memory", "reply['run_peak'] = None"),
    ],
)
def test_garbage_is_no_measurement_and_says_nothing_about_the_model(
    opened: OpenDevice, dense: Path, quick: Scenario, op: str, lie: str
) -> None:
    device = opened(Liar(op, lie))
    scenario = quick.model_copy(update={"memory_runs": 1})
    for _ in range(2):  # the next call starts a process of its own, and is told the same
        with pytest.raises(TargetLost, match="'here': the agent answered garbage: ") as raised:
            device.measure(dense, [X], scenario=scenario)
        assert "\n" not in str(raised.value) and "check the device" in str(raised.value)


@pytest.mark.parametrize(("op", "lie"), [("infer", "arrays = {}"), ("infer", "arrays = {'0/z': arrays['0/y']}")])
def test_answers_under_other_names_are_garbage(opened: OpenDevice, dense: Path, op: str, lie: str) -> None:
    with pytest.raises(TargetLost, match="garbage: it has no '0/y'"):
        run(opened(Liar(op, lie)), dense)


def test_a_greeting_that_is_garbage_is_no_device(opened: OpenDevice) -> None:
    with pytest.raises(TargetLost, match="garbage"):
        opened(Liar("describe", "reply['runtime']['providers'] = 7"))
