"""Device side of a native runner: travels inside the agent as `agent_backend`; Python 3.9, no import of ours.

Every question is one start of the program: `PROGRAM REQUEST.json RESULT.json`. A session therefore keeps no process:
each block of timed inferences has a process of its own, which loads the model and warms up before it times. What the
program says is believed only as far as it can be: times must be positive, finite and fit into the time it ran.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy

from hwprofiles.agent import codes

SCHEMA = 1
Feed = dict[str, Any]

_RESULT_BYTES = 64 << 20
_WARM_ITERATIONS = 5
_LONGEST = 1e9  # seconds; also refuses what JSON can say and a float cannot hold
_POLL = 0.005  # seconds between two looks at the program's memory
_KINDS = ("bad_model", "unsupported", "oom", "nonfinite", "unavailable")  # that a runner may answer with

_place: dict[str, str] = {}  # "program": its file; "folder": where it lies with what it needs


class RunnerFailure(Exception):
    """What the program answered, or that it gave no usable answer."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


ERRORS: tuple[type[Exception], ...] = (RunnerFailure,)


def attach(files: dict[str, str], scratch: str) -> None:
    """Lay out what was sent: name -> file in the cache of the device. Must come before anything else."""
    scratch = str(Path(scratch).absolute())
    folder = Path(tempfile.mkdtemp(prefix="runner-", dir=scratch))
    for name, blob in files.items():
        path = folder / Path(name).name
        try:
            os.link(blob, path)
        except OSError:  # another file system, or one without links
            shutil.copyfile(blob, path)
        path.chmod(0o700)
    _place.update(program=str(folder / "runner"), folder=str(folder), scratch=scratch)


def describe(options: dict[str, Any]) -> dict[str, Any]:
    """What the program says of itself. Whatever is wrong with it is a target that is not available."""
    try:
        told, _ = _ask(options, {"op": "describe"})
        name, version = _text(told, "runtime"), _text(told, "version")
        providers = told.get("providers")
        if not isinstance(providers, list) or not providers or not all(isinstance(p, str) for p in providers):
            raise RunnerFailure("protocol", "the runner's result has no `providers`, a list of names")
    except RunnerFailure as error:
        raise RunnerFailure("unavailable", str(error)) from error
    graph, transfers = told.get("cuda_graph"), told.get("transfers")
    return {
        "runtime": "runner",
        "version": "{} {} {}".format(name, version, options["digest"][:12]),
        "providers": providers,
        "compiled": providers,
        "build": str(told.get("build", ""))[:500],
        "accelerator": str(told.get("accelerator", ""))[:200],
        "arena": str(told.get("arena") or "unknown")[:100],
        "memory_pattern": None,
        "cuda_graph": graph if isinstance(graph, bool) else None,
        "transfers": transfers if isinstance(transfers, bool) else None,
    }


class Session:
    """A model that the program could open. `load_seconds` is what the program says about opening it."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self._path = path
        self._options = options
        told, _ = _ask(options, {"op": "describe"}, model=path)
        self.inputs = _ports(told, "inputs")
        self.outputs = _ports(told, "outputs")
        self.load_seconds = _duration(told, "load_seconds")
        self._names = [port["name"] for port in self.outputs]

    def run(self, feed: Feed) -> list[Any]:
        """One inference; the outputs in the order of `outputs`."""
        return self.run_all([feed])[0]

    def run_all(self, feeds: list[Feed]) -> list[list[Any]]:
        """One inference per feed, all in one start of the program."""
        told, exchange = _ask(self._options, {"op": "run"}, model=self._path, feeds=feeds, read=self._read)
        del told
        found: list[list[Any]] = exchange.value
        return found

    def time_block(self, feeds: list[Feed], count: int) -> dict[str, Any]:
        """`count` inferences one by one, in a process of their own, after the model is loaded and warm.

        Wall seconds of each, CPU seconds in all, seconds of loading and of the first inference.
        """
        warm = {"seconds": self._options["warmup_seconds"], "iterations": _WARM_ITERATIONS}
        request = {"op": "time", "warmup": warm, "iterations": count}
        told, exchange = _ask(self._options, request, model=self._path, feeds=feeds)
        samples = told.get("samples")
        if not isinstance(samples, list) or len(samples) != count:
            given = len(samples) if isinstance(samples, list) else "no list of"
            raise RunnerFailure("protocol", f"the runner gave {given} samples; {count} were asked for")
        for sample in samples:
            if isinstance(sample, bool) or not isinstance(sample, (int, float)) or not 0 < sample < _LONGEST:
                raise RunnerFailure("protocol", f"the runner gave the sample {_shown(sample)}, not a duration")
        load, first = _duration(told, "load_seconds"), _duration(told, "first_seconds")
        claimed = sum(samples) + load + first
        if claimed > 1.01 * exchange.seconds + 0.001:
            raise RunnerFailure(
                "protocol",
                f"the runner claims {claimed:.6g} s of loading and inference; it ran {exchange.seconds:.6g} s",
            )
        cpu = _duration(told, "cpu_seconds")
        thread = _duration(told, "thread_cpu_seconds") if "thread_cpu_seconds" in told else min(cpu, sum(samples))
        return {
            "wall": [float(sample) for sample in samples],
            "cpu": cpu,
            "thread_cpu": thread,
            "load": load,
            "first": first,
        }

    def memory(self, feed: Feed, iterations: int) -> dict[str, Any]:
        """Peaks of resident memory in bytes of three starts: of the program alone, with the model, and running.

        And `cold`, the seconds of a start that gives one answer and ends.
        """
        _, once = _ask(self._options, {"op": "run", "repeat": 1}, model=self._path, feeds=[feed])
        peaks: dict[str, int] = {}
        for name, request, model, feeds in (
            ("import_only", {"op": "describe"}, None, []),
            ("load_peak", {"op": "describe"}, self._path, []),
            ("run_peak", {"op": "run", "repeat": iterations}, self._path, [feed]),
        ):
            told, exchange = _ask(self._options, request, model=model, feeds=feeds, watch=True)
            peaks[name] = max(exchange.peak, _peak(told))
        if not all(peaks.values()):
            raise RunnerFailure("unsupported", "the runner's memory can be read nowhere; let it tell `peak_bytes`")
        peaks["run_peak"] = max(peaks["run_peak"], peaks["load_peak"])
        return {**peaks, "cold": once.seconds}

    def _read(self, told: dict[str, Any], folder: Path) -> list[list[Any]]:
        """The arrays that a result names, in the order of `outputs`."""
        outputs = told.get("outputs")
        if not isinstance(outputs, list) or not all(isinstance(entry, dict) for entry in outputs):
            raise RunnerFailure("protocol", "the runner's result has no `outputs`, a list of name -> file")
        return [[_load(entry, name, folder) for name in self._names] for entry in outputs]


def kernels(path: str, options: dict[str, Any], feed: Feed, runs: int, scratch: str) -> list[dict[str, Any]]:
    """Every kernel that ran, as the program tells it. One that cannot tell is "unsupported"."""
    del scratch
    told, _ = _ask(options, {"op": "kernels", "repeat": runs}, model=path, feeds=[feed])
    found = told.get("kernels")
    if not isinstance(found, list) or not all(isinstance(kernel, dict) for kernel in found):
        raise RunnerFailure("protocol", "the runner's result has no `kernels`, a list of tables")
    for kernel in found:
        for key in ("node", "op", "provider"):
            _text(kernel, key)
        _duration(kernel, "seconds")
    known = ("node", "op", "provider", "seconds", "inputs", "outputs")
    return [{key: kernel[key] for key in known if key in kernel} for kernel in found]


def classify(error: Exception, stage: str) -> str:
    """The kind of Failure that this exception is."""
    del stage
    return error.kind if isinstance(error, RunnerFailure) else "protocol"


def explain(error: Exception) -> str:
    """One line for a person."""
    return " ".join(str(error).split())[:600]


class _Exchange:
    """What is known of one start of the program besides its answer."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak = 0
        self.value: Any = None


def _ask(
    options: dict[str, Any],
    request: dict[str, Any],
    model: str | None = None,
    feeds: list[Feed] | None = None,
    read: Any = None,
    watch: bool = False,
) -> tuple[dict[str, Any], _Exchange]:
    """One question: (its result, how it went). `read(result, folder)` is called while the folder is still there."""
    folder = Path(tempfile.mkdtemp(prefix="ask-", dir=_place["scratch"]))
    try:
        text = {
            "schema": SCHEMA,
            **request,
            "threads": options["threads"],
            "provider": options["provider"],
            "settings": options["settings"],
        }
        if model is not None:
            text["model"] = str(folder / "model.onnx")
            (folder / "model.onnx").symlink_to(Path(model).absolute())
        if feeds:
            text["feeds"] = [_save(feed, number, folder) for number, feed in enumerate(feeds)]
        (folder / "request.json").write_text(json.dumps(text))
        exchange = _start(options, folder, watch)
        told = _result(folder / "result.json")
        if read is not None:
            exchange.value = read(told, folder)
            if len(exchange.value) != len(feeds or ()):
                raise RunnerFailure(
                    "protocol", f"the runner gave {len(exchange.value)} outputs for {len(feeds or ())} feeds"
                )
        return told, exchange
    finally:
        shutil.rmtree(str(folder), ignore_errors=True)


def _start(options: dict[str, Any], folder: Path, watch: bool) -> _Exchange:
    """Run the program to its end; `watch` its memory, which costs it a little time.

    Raises `RunnerFailure` if it cannot be started or does not end well.
    """
    command = [_place["program"], str(folder / "request.json"), str(folder / "result.json")]
    if options["interpreted"]:
        command.insert(0, sys.executable)
    environment = dict(os.environ)
    searched = environment.get("LD_LIBRARY_PATH", "")
    environment["LD_LIBRARY_PATH"] = _place["folder"] + (os.pathsep + searched if searched else "")
    exchange, began = _Exchange(), time.perf_counter()
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, cwd=str(folder), env=environment
        )
    except OSError as error:
        advice = "build it for " + os.uname().machine
        if error.errno == errno.EACCES:
            advice = "programs may not be started in {} there; choose another place with options.folder".format(
                _place["folder"]
            )
        raise RunnerFailure(
            "unavailable", "the runner {} cannot be started: {}; {}".format(options["name"], error.strerror, advice)
        ) from error
    last = _Log(process)
    with process:
        while watch and process.poll() is None:
            exchange.peak = max(exchange.peak, _resident_peak(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
        process.wait()
    exchange.seconds = time.perf_counter() - began
    if process.returncode:
        said = last.line()
        raise RunnerFailure(
            "crash",
            "the runner {} ended with {}{}".format(
                options["name"], codes.spell_child(process.returncode), said and ": " + said
            ),
        )
    return exchange


class _Log:
    """Passes on what the program prints to stderr and remembers its last lines."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._lines: collections.deque[bytes] = collections.deque(maxlen=5)
        self._thread = threading.Thread(target=self._follow, args=(process.stderr,), daemon=True)
        self._thread.start()

    def _follow(self, stream: Any) -> None:
        for line in iter(lambda: stream.readline(1 << 12), b""):
            self._lines.append(line)
            with contextlib.suppress(OSError):
                os.write(2, line)

    def line(self) -> str:
        """The last line that says something."""
        self._thread.join(1.0)
        words = [" ".join(line.decode(errors="replace").split()) for line in list(self._lines)]
        return next((line for line in reversed(words) if line), "")[:300]


def _result(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > _RESULT_BYTES:
            raise RunnerFailure("protocol", f"the runner's result has {size} bytes, too many")
        told = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunnerFailure("protocol", "the runner ended without a result file") from error
    except (ValueError, RecursionError) as error:
        raise RunnerFailure("protocol", f"the runner's result is not JSON: {error}") from error
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        found = told.get("schema") if isinstance(told, dict) else type(told).__name__
        raise RunnerFailure("protocol", f"the runner's result has schema {_shown(found)}, not {SCHEMA}")
    problem = told.get("error")
    if problem is None:
        answer: dict[str, Any] = told
        return answer
    kind = problem.get("kind") if isinstance(problem, dict) else None
    if kind not in _KINDS:
        raise RunnerFailure("protocol", f"the runner's error is of the unknown kind {_shown(kind)}")
    raise RunnerFailure(kind, "the runner says: {}".format(problem.get("message") or kind))


def _save(feed: Feed, number: int, folder: Path) -> dict[str, str]:
    names = {}
    for index, (name, array) in enumerate(feed.items()):
        file = f"feed-{number}-{index}.npy"
        numpy.save(str(folder / file), array, allow_pickle=False)
        names[name] = file
    return names


def _load(entry: dict[str, Any], name: str, folder: Path) -> Any:
    file = entry.get(name)
    if not isinstance(file, str) or Path(file).name != file:
        raise RunnerFailure("protocol", f"the runner names no file in its folder for output {name!r}")
    try:
        return numpy.load(str(folder / file), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunnerFailure("protocol", f"output {name!r} of the runner is no .npy file: {error}") from error


def _ports(told: dict[str, Any], key: str) -> list[dict[str, Any]]:
    ports = told.get(key)
    if not isinstance(ports, list) or not all(isinstance(port, dict) for port in ports):
        raise RunnerFailure("protocol", f"the runner's result has no `{key}`, a list of tables")
    return [
        {"name": _text(p, "name"), "type": str(p.get("type", "")), "shape": list(p.get("shape", []))} for p in ports
    ]


def _text(told: dict[str, Any], key: str) -> str:
    value = told.get(key)
    if not isinstance(value, str) or not value:
        raise RunnerFailure("protocol", f"the runner's result has no text `{key}`")
    return value[:200]


def _duration(told: dict[str, Any], key: str) -> float:
    value = told.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LONGEST:
        raise RunnerFailure("protocol", f"the runner's `{key}` is {_shown(value)}, not a duration")
    return float(value)


def _peak(told: dict[str, Any]) -> int:
    value = told.get("peak_bytes", 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 50:
        raise RunnerFailure("protocol", f"the runner's `peak_bytes` is {_shown(value)}, not a number of bytes")
    return value


def _resident_peak(pid: int) -> int:
    """VmHWM of a process, bytes; 0 where there is no /proc, or it has just ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _shown(value: Any) -> str:
    """What a runner has written, short enough for a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
