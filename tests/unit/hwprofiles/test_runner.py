"""Native runners that do not keep their contract: each gives one clear line, and the agent lives on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hwprofiles.device import Device, open_device
from hwprofiles.errors import BadProfile, DeviceFailure, TargetUnavailable
from hwprofiles.measurement import Measurement
from hwprofiles.runtimes.runner import Runner, with_runner
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target

# A runner that needs no runtime: y is x. What a test writes into `TIMED` or `RAN` changes its answers.
_PROGRAM = """#!{python}
import json, os, shutil, signal, sys, time
began = time.perf_counter()
request = json.load(open(sys.argv[1]))
ports = [{{"name": "x", "type": "tensor(float)", "shape": ["n"]}}]
result = {{"schema": 1}}
if request["op"] == "describe":
    result.update(runtime="fake", version="1", providers=["CPUExecutionProvider"])
    if "model" in request:
        result.update(load_seconds=1e-6, inputs=ports, outputs=[dict(ports[0], name="y")])
elif request["op"] == "run":
    result["outputs"] = [{{"y": feed["x"]}} for feed in request["feeds"]]
    {ran}
elif request["op"] == "time":
    result.update(load_seconds=1e-6, first_seconds=1e-6, cpu_seconds=1e-6, samples=[1e-6] * request["iterations"])
    {timed}
else:
    result = {{"schema": 1, "error": {{"kind": "unsupported", "message": "no such thing"}}}}
{last}
json.dump(result, open(sys.argv[2], "w"))
"""
_SCENARIO = Scenario(
    warmup_seconds=0, warmup_iterations=5, block_seconds=1e-6, block_iterations=5, min_pairs=3, max_pairs=3,
    precision=0.5, max_seconds=30, memory_runs=0,
)  # fmt: skip
FEED = {"x": np.arange(4, dtype=np.float32)}

OpenRunner = Callable[..., Device]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "any.onnx"
    path.write_bytes(b"the runner does not look at it")
    return path


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[OpenRunner]:
    devices: list[Device] = []

    def make(
        *, ran: str = "pass", timed: str = "pass", last: str = "", timeout: float = 30.0, **options: object
    ) -> Device:
        program = tmp_path / f"fake-{len(devices)}"
        program.write_text(_PROGRAM.format(python=sys.executable, ran=ran, timed=timed, last=last))
        wanted = Target.model_validate({"name": "phone", "timeout": timeout, "options": {"quiet_wait": 0, **options}})
        devices.append(open_device(with_runner(wanted, program), work=tmp_path / "work"))
        return devices[-1]

    yield make
    for device in devices:
        device.close()


def measured(device: Device, model: Path) -> Measurement:
    return device.measure(model, [FEED], scenario=_SCENARIO)


def test_a_program_of_its_own_is_enough(opened: OpenRunner, model: Path) -> None:
    device = opened()
    (out,) = device.infer(model, [FEED])
    np.testing.assert_array_equal(out["y"], FEED["x"])
    assert device.fingerprint.runtime_version.startswith("fake 1 ") and device.fingerprint.session["arena"] == "unknown"
    found = measured(device, model)
    assert found.failure is None and found.latency is not None
    assert found.latency.median.value == pytest.approx(1e-6) and found.latency.load_seconds == 1e-6


@pytest.mark.parametrize(
    ("timed", "kind", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crash", "the runner fake-0 ended with SIGSEGV"),
        ("sys.exit('cannot do it')", "crash", "ended with exit code 1: cannot do it"),
        ("os._exit(0)", "protocol", "ended without a result file"),
        ("open(sys.argv[2], 'w').write('{]'); os._exit(0)", "protocol", "is not JSON"),
        ("open(sys.argv[2], 'wb').write(os.urandom(99)); os._exit(0)", "protocol", "is not JSON"),
        ("result = [1]", "protocol", "has schema 'list', not 1"),
        ("result['schema'] = 7", "protocol", "has schema 7, not 1"),
        ("result['samples'][1] = -1e-6", "protocol", "the sample -1e-06, not a duration"),
        ("result['samples'][1] = 0", "protocol", "the sample 0, not a duration"),
        ("result['samples'][1] = float('nan')", "protocol", "the sample nan, not a duration"),
        ("result['samples'][1] = float('inf')", "protocol", "the sample inf, not a duration"),
        ("result['samples'][1] = 10 ** 400", "protocol", "not a duration"),
        ("result['samples'][1] = 'fast'", "protocol", "the sample 'fast', not a duration"),
        ("result['samples'][1] = True", "protocol", "the sample True, not a duration"),
        ("result['samples'][1] = 1000.0", "protocol", "the runner claims 1000 s of loading and inference; it ran"),
        ("result['samples'].pop()", "protocol", "the runner gave 4 samples; 5 were asked for"),
        ("del result['samples']", "protocol", "no list of samples"),
        ("result['cpu_seconds'] = None", "protocol", "`cpu_seconds` is None, not a duration"),
        ("result = {'schema': 1, 'error': {'kind': 'oom', 'message': 'full'}}", "oom", "the runner says: full"),
        ("result = {'schema': 1, 'error': {'kind': 'strange'}}", "protocol", "unknown kind 'strange'"),
        ("result = {'schema': 1, 'error': 'no'}", "protocol", "unknown kind None"),
        ("result['padding'] = 'x' * (65 << 20)", "protocol", "bytes, too many"),
    ],
)
def test_times_that_cannot_be_believed(opened: OpenRunner, model: Path, timed: str, kind: str, said: str) -> None:
    device = opened(timed=timed)
    failure = measured(device, model).failure
    assert failure is not None and failure.kind == kind
    assert said in failure.message and "\n" not in failure.message and len(failure.message) < 400
    assert len(list(device.infer(model, [FEED]))) == 1


@pytest.mark.parametrize(
    ("ran", "said"),
    [
        ("result['outputs'][0]['y'] = '../../etc/passwd'", "names no file in its folder for output 'y'"),
        ("result['outputs'][0]['y'] = '/etc/passwd'", "names no file in its folder for output 'y'"),
        ("result['outputs'][0]['y'] = 'request.json'", "is no .npy file"),
        ("result['outputs'][0]['y'] = 'missing.npy'", "is no .npy file"),
        ("del result['outputs'][0]['y']", "names no file"),
        ("result['outputs'] = 5", "has no `outputs`"),
        ("result['outputs'] *= 2", "the runner gave 2 outputs for 1 feeds"),
    ],
)
def test_outputs_that_cannot_be_read(opened: OpenRunner, model: Path, ran: str, said: str) -> None:
    with pytest.raises(DeviceFailure) as raised:
        list(opened(ran=ran).infer(model, [FEED]))
    assert raised.value.failure.kind == "protocol" and said in raised.value.failure.message


def test_one_that_hangs_is_ended(opened: OpenRunner, model: Path, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    device = opened(ran=f"open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)", timeout=5.0)
    with pytest.raises(DeviceFailure) as raised:
        list(device.infer(model, [FEED]))
    assert raised.value.failure.kind == "timeout"
    assert not Path(f"/proc/{told.read_text()}").exists()


def test_what_it_needs_lies_beside_it(opened: OpenRunner, model: Path, tmp_path: Path) -> None:
    library = tmp_path / "libneeded.so"
    library.write_bytes(b"\x7fELF")
    check = (
        "folder = os.environ['LD_LIBRARY_PATH'].split(':')[0]; "
        "assert open(os.path.join(folder, 'libneeded.so'), 'rb').read() == b'\\x7fELF'; "
        "assert request['settings'] == 'fast'"
    )
    device = opened(ran=check, runner_files=[str(library)], runner_settings="fast")
    assert len(list(device.infer(model, [FEED]))) == 1


def test_without_kernels_it_says_so(opened: OpenRunner, model: Path) -> None:
    with pytest.raises(DeviceFailure) as raised:
        opened().kernels(model, FEED)
    assert raised.value.failure.kind == "unsupported" and "no such thing" in raised.value.failure.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x7fELF\x02\x01\x01 of another machine", "cannot be started: Exec format error; build it for"),
        (b"#!/no/such/interpreter\n", "cannot be started: No such file or directory"),
        (b"#!/bin/sh\nexit 3\n", "ended with exit code 3"),
        (b"#!/bin/sh\necho '{\"schema\": 1}' > $2\n", "no text `runtime`"),
        (
            b'#!/bin/sh\necho \'{"schema": 1, "runtime": "r", "version": "1", "providers": []}\' > $2\n',
            "no `providers`",
        ),
    ],
)
def test_one_that_does_not_start_is_a_target_that_is_not_there(tmp_path: Path, content: bytes, said: str) -> None:
    program = tmp_path / "program"
    program.write_bytes(content)
    with pytest.raises(TargetUnavailable) as raised:
        open_device(with_runner(Target(name="phone"), program), work=tmp_path / "work")
    assert said in str(raised.value) and "docs/runner.md" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs the program; set options.runner or give --runner PATH"),
        ({"runner": "/nowhere/runner"}, "the runner's file /nowhere/runner is not there"),
        ({"runner": sys.executable, "runner_files": ("/nowhere/lib.so",)}, "/nowhere/lib.so is not there"),
        ({"runner": sys.executable, "runner_files": ("/a/runner",)}, "two files are named 'runner'"),
        ({"runner": sys.executable, "runner_warmup": "long"}, "runner_warmup is 'long'"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, object], said: str) -> None:
    with pytest.raises(BadProfile) as raised:
        Runner().options(Target.model_validate({"name": "phone", "runtime": "runner", "options": options}))
    assert said in str(raised.value) and "phone" in str(raised.value)


def test_travels_to_where_the_transport_leads(opened: OpenRunner, model: Path, tmp_path: Path) -> None:
    """The transport `command` sends everything through pipes and lets the other side choose the folder."""
    there = tmp_path / "there"
    program = tmp_path / "fake"
    program.write_text(_PROGRAM.format(python=sys.executable, ran="pass", timed="pass", last=""))
    target = Target(
        name="elsewhere",
        transport="command",
        python=sys.executable,
        options={"prefix": ("env", "-i", "PATH=/usr/bin:/bin"), "folder": str(there), "quiet_wait": 0},
    )
    with open_device(with_runner(target, program), work=tmp_path / "work") as device:
        assert len(list(device.infer(model, [FEED] * 3))) == 3
        found = measured(device, model)
        assert found.failure is None and found.conditions is not None and found.conditions.runtime == "runner"
    assert len(list((there / "blobs").iterdir())) >= 2, "the program and the model were sent under their digests"
