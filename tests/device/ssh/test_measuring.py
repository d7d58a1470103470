"""A device behind a real sshd: measured, asked and lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure, TargetLost, TargetUnavailable
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target
from tests.device.ssh.test_start import script
from tests.device.sshd import Sshd, alive, command_of, descendants, wait_until_gone
from tests.unit.hwprofiles.conftest import save, save_dense

X = {"x": np.ones((1, 64), np.float32)}
QUICK = Scenario(
    warmup_seconds=0.0,
    warmup_iterations=5,
    block_seconds=0.001,
    block_iterations=5,
    min_pairs=5,
    max_pairs=8,
    precision=0.5,
    max_seconds=30,
    memory_runs=1,
)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return save_dense(tmp_path / "dense.onnx", width=64)


@pytest.fixture
def hang(tmp_path: Path) -> Path:
    """Runs for minutes: multiplies a matrix with itself again and again."""
    nodes = [helper.make_node("Expand", ["x", "shape"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(300)]
    nodes.append(helper.make_node("ReduceMean", ["m300"], ["y"], keepdims=0))
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [3000, 3000])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])]
    return save(helper.make_graph(nodes, "g", inputs, outputs, [shape]), tmp_path / "hang.onnx")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Target], Device]]:
    devices: list[Device] = []

    def make(target: Target) -> Device:
        devices.append(open_device(target, work=tmp_path / "work"))
        return devices[-1]

    yield make
    for device in devices:
        device.close()


def programs(server: Sshd) -> list[int]:
    """Processes of this server's devices: supervisors, workers and keepers."""
    mark = str(server.cache), str(server.python), sys.executable
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and any(part in command_of(int(entry.name)) for part in mark):
            with contextlib.suppress(OSError):
                if f"XDG_CACHE_HOME={server.cache}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return [pid for pid in found if alive(pid)]


def test_measures_infers_and_lists_kernels(sshd: Sshd, dense: Path, opened: Callable[[Target], Device]) -> None:
    device = opened(sshd.target())
    measurement = device.measure(dense, [X], baseline=dense, scenario=QUICK)
    assert measurement.failure is None
    assert measurement.latency is not None and measurement.ratio is not None
    batches = [{"x": np.full((1, 64), float(i), np.float32)} for i in range(20)]
    answers = [found["y"] for found in device.infer(dense, batches, workers=2)]
    here = opened(Target(name="here"))
    expected = [found["y"] for found in here.infer(dense, batches)]
    assert all(np.array_equal(a, b) for a, b in zip(answers, expected, strict=True))
    assert [kernel.op for kernel in device.kernels(dense, X)] == [kernel.op for kernel in here.kernels(dense, X)]
    assert list((sshd.cache / "hw-autotune" / "blobs").glob("*.onnx"))


def test_nothing_is_left_when_a_device_is_closed(own_sshd: Callable[..., Sshd], dense: Path, tmp_path: Path) -> None:
    server = own_sshd()
    with open_device(server.target(), work=tmp_path / "work") as device:
        list(device.infer(dense, [X]))
        assert programs(server)
    assert not wait_until_gone(programs(server))


def test_a_connection_that_breaks_is_not_the_models_fault(
    own_sshd: Callable[..., Sshd], dense: Path, hang: Path, opened: Callable[[Target], Device]
) -> None:
    server = own_sshd()
    device = opened(server.target())
    list(device.infer(dense, [X]))
    threading.Timer(1.5, server.stop).start()
    with pytest.raises(TargetLost, match="the connection is gone"):
        device.measure(hang, [{"x": np.ones(1, np.float32)}], scenario=QUICK)
    assert not wait_until_gone(programs(server))
    with pytest.raises(TargetUnavailable, match="Connection refused"):
        device.measure(dense, [X], scenario=QUICK)
    server.start()
    assert device.measure(dense, [X], scenario=QUICK).failure is None


@pytest.mark.slow
def test_a_network_that_goes_silent_is_not_the_models_fault(
    own_sshd: Callable[..., Sshd], hang: Path, opened: Callable[[Target], Device]
) -> None:
    server = own_sshd()
    device = opened(server.target(timeout=30.0))
    stopped: list[int] = []

    def silence() -> None:
        stopped.extend(server.sessions())
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    timer = threading.Timer(1.5, silence)
    timer.start()
    try:
        with pytest.raises(TargetLost, match="not responding"):
            list(device.infer(hang, [{"x": np.ones(1, np.float32)}]))
    finally:
        timer.join()
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert not wait_until_gone(programs(server))


def test_a_reply_after_the_deadline_is_a_failure_of_the_model(
    own_sshd: Callable[..., Sshd], dense: Path, hang: Path, opened: Callable[[Target], Device]
) -> None:
    server = own_sshd()
    device = opened(server.target(timeout=8.0))
    with pytest.raises(DeviceFailure) as caught:
        list(device.infer(hang, [{"x": np.ones(1, np.float32)}]))
    assert caught.value.failure.kind == "timeout"
    assert next(iter(device.infer(dense, [X])))["y"].shape == (1, 64)


CLIENT = """
import sys, time
from pathlib import Path
import numpy as np
from hwprofiles.device import open_device
from hwprofiles.target import Target
target = Target.model_validate_json(sys.argv[1])
device = open_device(target, work=Path(sys.argv[2]))
print("open", flush=True)
list(device.infer(Path(sys.argv[3]), [{"x": np.ones(1, np.float32)}]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["client killed", "ssh killed", "worker stopped", "worker stopped, ssh killed"])
def test_no_process_outlives_its_client(own_sshd: Callable[..., Sshd], hang: Path, tmp_path: Path, how: str) -> None:
    server = own_sshd()
    arguments = [server.target().model_dump_json(), str(tmp_path / "work"), str(hang)]
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert client.stdout is not None
    try:
        assert client.stdout.readline() == b"open\n"
        time.sleep(1.0)  # the inference has begun, the shared connection stands
        left, connections = programs(server), [pid for pid in descendants(client.pid) if alive(pid)]
        assert left and connections
        if "stopped" in how:
            for pid in left:
                if any(other in descendants(pid) for other in left):
                    continue  # a supervisor
                os.kill(pid, signal.SIGSTOP)
        if "ssh killed" in how:
            for pid in connections:
                with contextlib.suppress(ProcessLookupError):  # with one of them others may have ended
                    os.kill(pid, signal.SIGKILL)
        else:
            client.kill()
        assert not wait_until_gone(left)
        assert not wait_until_gone(connections)
    finally:
        client.kill()
        client.wait()
        client.stdout.close()


def test_a_device_without_numpy_says_how_to_install_it(sshd: Sshd, tmp_path: Path) -> None:
    bare = script(tmp_path / "python", f'exec "{sys.executable}" -I -S "$@"')
    with pytest.raises(TargetUnavailable) as caught:
        open_device(sshd.target(python=bare), work=tmp_path / "work")
    text = str(caught.value)
    assert "numpy" in text and f"ssh {sshd.host}" in text and "-m pip install" in text and bare in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ("os.write(1, b'HWP1' + b'x' * 100)", "garbage"),
        ("os.write(1, bytes(range(256)) * 4)", "garbage"),
        ("os.write(1, b'HWP1' + (2).to_bytes(4, 'little') + (1 << 40).to_bytes(8, 'little') + b'{}')", "garbage"),
        ("[os.write(1, b'y' * 65536) for _ in iter(int, 1)]", "garbage"),
        ("time.sleep(600)", "no answer to 'hello' within 3 s"),
        ("os.close(1); time.sleep(600)", "no answer to 'hello'"),
        ("sys.exit(5)", "exit code 5"),
    ],
)
def test_a_device_that_answers_garbage(sshd: Sshd, tmp_path: Path, after: str, says: str) -> None:
    """The program arrives as it should, then something else takes its place."""
    wrapper = tmp_path / "fake.py"
    wrapper.write_text(
        "import runpy, os, signal, sys, time\n"
        "signal.alarm(60)\n"  # nobody ends what does not listen
        f"def other(*_, **__):\n    {after}\n    time.sleep(600)\n"
        "runpy.run_path = other\n"
        "exec(sys.stdin.buffer.raw.readline())\n"
    )
    fake = script(tmp_path / "python", f'exec "{sys.executable}" "{wrapper}"')
    with pytest.raises(TargetUnavailable) as caught:
        open_device(sshd.target(python=fake, timeout=3.0), work=tmp_path / "work")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_full_disk_on_the_device_is_named(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    model = save_dense(tmp_path / "large.onnx", width=4096)
    limited = script(tmp_path / "python", f'ulimit -f 512; exec {server.python} "$@"')
    with open_device(server.target(python=limited), work=tmp_path / "work") as device:
        with pytest.raises(DeviceFailure) as caught:
            list(device.infer(model, [X]))
        assert caught.value.failure.kind == "disk"
        small = save_dense(tmp_path / "small.onnx", width=8)
        assert next(iter(device.infer(small, [X])))["y"].shape == (1, 8)
