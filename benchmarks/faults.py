"""What a measured process may do without harm: every fault on every transport, with the time until all is well again.

    python benchmarks/faults.py [--transport NAME] [--target NAME_OR_FILE]... [--timeout SECONDS] [--json] [--out FILE]

For each target: hangs (in native code, in Python, stopped), memory (a bomb, growth; against the limit of the address
space and against the memory guard alone), crashes, endings, outputs that are not finite, broken model files, floods of
output, orphans, and a parent that is killed. A case is survived if it ends as the failure that it is, the next
inference answers as before, and no process of it is left on the device. `--transport NAME` is short for a target
without any options; the result file keeps what earlier runs found for other targets. About a minute on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwprofiles.device import Device
from hwprofiles.errors import DeviceFailure, Failure, HardwareError
from hwprofiles.registry import TRANSPORTS, find_target, load_plugin
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target

RESULT = Path(__file__).parent / "results" / "faults.json"
MEMORY = 1 << 30  # bytes that a measured process may have here
PATIENCE = 15.0  # seconds for what was killed to be gone
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

# Code in the device's process that misbehaves as the first element of the input says. `TAG` marks the process and all
# that it forks, so that they can be counted later, from another process.
MISCHIEF = """

import ctypes, os, signal, time
from pathlib import Path as _Path
_TAG = "@TAG@"
ctypes.CDLL(None).prctl(15, _TAG.encode(), 0, 0, 0)
_honest = Session.run

def _left():
    found = 0
    for entry in _Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                same = (entry / "comm").read_text().strip() == _TAG
                found += same and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            except OSError:
                pass
    return found

def _run(self, feed):
    what = int(feed["x"].flat[0]) if "x" in feed and feed["x"].size == 64 else 0
    if what == 2:
        ctypes.string_at(0)
    if what == 3:
        os.abort()
    if what == 4:
        os._exit(0)
    if what == 5:
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == 6:
        while True:
            time.sleep(1)
    if what == 7:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        if os.fork() == 0:
            time.sleep(600)
        os._exit(9)
    if what == 8:
        kept = []
        while True:
            kept.append(bytearray(os.urandom(1 << 20) * 16))
    if what == 9:
        while True:
            os.write(1, b"x" * 65536)
            os.write(2, bytes(range(256)) * 256)
    if what == 10:
        return [value * 0 + _left() for value in _honest(self, feed)]
    return _honest(self, feed)

Session.run = _run
"""

# Opens the device, says so, and hangs until it is killed.
PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import faults
target, tag, work = faults.Target.model_validate_json(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
with faults.open_mischief(target, tag, work) as device:
    faults.answer(device, Path(sys.argv[5]), 1)
    print("up", flush=True)
    faults.answer(device, Path(sys.argv[5]), 6)
"""


class Mischief(OnnxRuntime):
    """ONNX Runtime whose device side does as its input says."""

    def __init__(self, tag: str) -> None:
        self._tag = tag

    def backend(self) -> str:
        return super().backend() + MISCHIEF.replace("@TAG@", self._tag)


class Bench:
    """One target, with its models and an open device; `run` makes one case of it."""

    def __init__(self, target: Target, work: Path) -> None:
        self.target = target
        self.tag = "hwf-" + secrets.token_hex(4)
        self.work = work
        self.good, self.nan = save_good(work / "good.onnx"), save_nan(work / "nan.onnx")
        self.hang, self.bomb = save_hang(work / "hang.onnx"), save_bomb(work / "bomb.onnx")
        self.device = open_mischief(target, self.tag, work / "agent")
        free = {**target.options, "address_limit": False}
        self.unlimited = open_mischief(target.model_copy(update={"options": free}), self.tag, work / "agent")
        self.expected = answer(self.device, self.good, 1)

    def close(self) -> None:
        self.device.close()
        self.unlimited.close()

    def run(
        self, name: str, device: Device, wanted: tuple[str, ...], act: Callable[[], Failure | None]
    ) -> dict[str, Any]:
        """Do `act`, then see whether everything is as before."""
        began = time.perf_counter()
        failure = act()
        failed = time.perf_counter()
        right = bool(np.array_equal(answer(device, self.good, 1), self.expected))
        recovered = time.perf_counter()
        left = self.orphans(device)
        kind = failure.kind if failure else "none"
        return {
            "case": name,
            "survived": kind in wanted and right and left == 0,
            "kind": kind,
            "message": failure.message if failure else "",
            "noticed_seconds": failed - began,
            "recovery_seconds": recovered - failed,
            "orphans": left,
        }

    def orphans(self, device: Device) -> int:
        """Marked processes on the device besides the ones that the two open devices use."""
        deadline = time.monotonic() + PATIENCE
        while True:
            other = self.unlimited if device is self.device else self.device
            used = 1 if other._slots[0]._agent is not None and other._slots[0]._agent.look() else 0
            left = int(answer(device, self.good, 10).flat[0]) - used
            if left <= 0 or time.monotonic() > deadline:
                return left
            time.sleep(0.1)


def cases(bench: Bench) -> list[dict[str, Any]]:
    """Every case on the bench's target."""
    device, unlimited, good = bench.device, bench.unlimited, bench.good
    large = {"n": np.array([2 << 30], np.int64)}  # 8 GiB of floats
    one = {"x": np.ones(1, np.float32)}
    data = good.read_bytes()
    broken = {"empty": b"", "truncated": data[: len(data) // 2], "random": np.random.default_rng(0).bytes(5000)}

    def infer(path: Path, feed: dict[str, Any], on: Device = device) -> Callable[[], Failure | None]:
        return lambda: fail(lambda: list(on.infer(path, [feed])))

    def does(what: int, on: Device = device) -> Callable[[], Failure | None]:
        return lambda: fail(lambda: answer(on, good, what))

    found = [
        bench.run("native hang: a Loop that counts to 2^62", device, ("timeout",), infer(bench.hang, one)),
        bench.run("hang in Python", device, ("timeout",), does(6)),
        bench.run("stopped (SIGSTOP)", device, ("timeout",), does(5)),
        bench.run("bomb of 8 GiB, address space limited", device, ("oom",), infer(bench.bomb, large)),
        bench.run("bomb of 8 GiB, memory guard alone", unlimited, ("oom",), infer(bench.bomb, large, unlimited)),
        bench.run("growth, address space limited", device, ("oom",), does(8)),
        bench.run("growth, memory guard alone", unlimited, ("oom",), does(8, unlimited)),
        bench.run("segmentation fault", device, ("crash",), does(2)),
        bench.run("abort", device, ("crash",), does(3)),
        bench.run("exit(0)", device, ("crash",), does(4)),
        bench.run("forks a detached grandchild and dies", device, ("crash",), does(7)),
        bench.run("flood of stdout and stderr", device, ("timeout",), does(9)),
        bench.run("outputs are NaN", device, ("nonfinite",), lambda: measure_nan(device, bench)),
    ]
    for name, content in broken.items():
        path = bench.work / f"{name}.onnx"
        path.write_bytes(content)
        found.append(bench.run(f"{name} model file", device, ("bad_model",), infer(path, one)))
    found.append(killed_parent(bench))
    return found


def measure_nan(device: Device, bench: Bench) -> Failure | None:
    """A model that divides zero by zero, against one that does not."""
    quick = Scenario(
        warmup_seconds=0.0, warmup_iterations=3, block_seconds=0.001, block_iterations=3, min_pairs=3, max_pairs=3,
        memory_runs=0,
    )  # fmt: skip
    return device.measure(bench.nan, [feed_of(1)], baseline=bench.good, scenario=quick).failure


def killed_parent(bench: Bench) -> dict[str, Any]:
    """A parent process that is killed while its model hangs."""

    def act() -> Failure | None:
        here = str(Path(__file__).parent)
        arguments = [here, bench.target.model_dump_json(), bench.tag, bench.work / "agent", bench.good]
        with subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            if parent.stdout.readline() != b"up\n":
                raise SystemExit("the parent process could not open the device; its error is above")
            time.sleep(0.3)
            parent.send_signal(signal.SIGKILL)
        return None

    return bench.run("the parent is killed while the model hangs", bench.device, ("none",), act)


def open_mischief(target: Target, tag: str, work: Path) -> Device:
    return Device(target, load_plugin(TRANSPORTS, target.transport, target=target.name), Mischief(tag), work)


def answer(device: Device, model: Path, what: float) -> np.ndarray:
    (outputs,) = device.infer(model, [feed_of(what)])
    return outputs["y"]


def feed_of(what: float) -> dict[str, np.ndarray]:
    return {"x": np.full((1, 64), what, np.float32)}


def fail(act: Callable[[], object]) -> Failure | None:
    try:
        act()
    except DeviceFailure as error:
        return error.failure
    return None


def save_good(path: Path) -> Path:
    weights = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    return save(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights}, ["batch", 64])


def save_nan(path: Path) -> Path:
    nodes = [helper.make_node("Sub", ["x", "x"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["y"])]
    return save(path, nodes, {}, ["batch", 64])


def save_hang(path: Path) -> Path:
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, ["n"]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", FLOAT, ["n"]),
        ],
    )
    loop = helper.make_node("Loop", ["trips", "yes", "x"], ["y"], body=body)
    return save(path, [loop], {"trips": np.array(2**62, np.int64), "yes": np.array(True)}, ["n"])


def save_bomb(path: Path) -> Path:
    """A file of a few hundred bytes that fills `n` floats."""
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["filled"], value=helper.make_tensor("v", FLOAT, [1], [1.5])),
        helper.make_node("ReduceMean", ["filled"], ["y"], keepdims=0),
    ]
    return save(path, nodes, {}, [1], given=("n", INT64))


def save(
    path: Path, nodes: list[Any], constants: dict[str, Any], shape: list[Any], given: tuple[str, int] = ("x", FLOAT)
) -> Path:
    graph = helper.make_graph(
        nodes,
        "fault",
        [helper.make_tensor_value_info(given[0], given[1], shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def examine(target: Target) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        bench = Bench(target, Path(folder))
        try:
            found = cases(bench)
            fingerprint = bench.device.fingerprint
        finally:
            bench.close()
    return {
        "target": target.name,
        "transport": target.transport,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "timeout": target.timeout,
        "memory_guard": fingerprint.environment["memory_guard"],
        "survived": sum(case["survived"] for case in found),
        "cases": found,
        "orphans": sum(case["orphans"] for case in found),
        "recovery_seconds_median": statistics.median(case["recovery_seconds"] for case in found),
        "recovery_seconds_max": max(case["recovery_seconds"] for case in found),
        "fingerprint": fingerprint.model_dump(mode="json"),
        "load_average": os.getloadavg()[0],
        "seconds": time.perf_counter() - started,
    }


def the_target(named: str) -> Target:
    """A profile by its name, or by the path of its file."""
    path = Path(named)
    return find_target(path.stem, folders=[path.parent]) if path.suffix == ".toml" else find_target(named)


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['target']} ({result['transport']}, {result['memory_guard']})")
    print(f"{'case':46} {'ended as':10} {'noticed':>8} {'recovery':>9} {'orphans':>8}")
    for case in result["cases"]:
        print(
            f"{case['case']:46} {case['kind']:10} {case['noticed_seconds']:6.2f} s {case['recovery_seconds']:7.2f} s "
            f"{case['orphans']:8}" + ("" if case["survived"] else "   NOT SURVIVED: " + case["message"])
        )
    print(
        f"survived {result['survived']} of {len(result['cases'])}; orphans {result['orphans']}; recovery median "
        f"{result['recovery_seconds_median']:.2f} s, longest {result['recovery_seconds_max']:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", action="append", default=[], help="a target of this transport without options")
    parser.add_argument("--target", action="append", default=[], help="a profile's name or .toml file")
    parser.add_argument("--timeout", type=float, default=5.0, help="deadline of a request, seconds; more when emulated")
    parser.add_argument("--json", action="store_true", help="print the result instead of a table")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result goes (JSON)")
    options = parser.parse_args()
    targets = [Target(name=name, transport=name) for name in options.transport]
    targets += [the_target(named) for named in options.target]
    known = json.loads(options.out.read_text())["targets"] if options.out.exists() else {}
    # Queueing behind a study on the same machine is no fault.
    os.environ["HW_AUTOTUNE_LOCKS"] = tempfile.mkdtemp()
    for target in targets or [Target(name="local")]:
        changes = {"timeout": options.timeout, "memory_limit": MEMORY, "options": {**target.options, "quiet_wait": 0}}
        try:
            known[target.name] = examine(target.model_copy(update=changes))
        except HardwareError as error:
            raise SystemExit(f"{target.name}: {error}") from error
        if not options.json:
            show(known[target.name])
    result = {"benchmark": "faults", "targets": known}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result, indent=1))
    if any(found["survived"] < len(found["cases"]) for found in known.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
