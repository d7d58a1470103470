"""Engines by what they were built from: a cache on the device, and the child process that builds what is not in it.

An engine belongs to a model, to what runs it (TensorRT's version, card, driver), to the builder options and to the
shapes it was built for; its name in the cache is the digest of all of these. Python 3.9, stdlib only.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hwprofiles.agent import codes
from hwprofiles.runtimes import tensorrt_build
from hwprofiles.runtimes.tensorrt_build import BuildProblem

# What the child runs. Its modules come from where ours came from, the agent's archive or a folder: neither the current
# folder nor PYTHONPATH comes before.
_PROGRAM = "import sys; sys.path.insert(0, {!r}); from hwprofiles.runtimes.tensorrt_build import main; main()"
# An ONNX model: y = MatMul(x, x) for x of 16 times 16.
_SMALL = (
    b'\x08\x08\x12\x00:@\n\x11\n\x01x\n\x01x\x12\x01y"\x06MatMul\x12\x01gZ\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08'
    b"\x10\n\x02\x08\x10b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x10\n\x02\x08\x10B\x04\n\x00\x10\x11"
)
_SHARED = ("runtime", "builder", "capability")  # of a request: options that every engine of a target has in common


class Engine:
    """A plan with what is known of it. `seconds` that building took; 0 where it came out of the cache.

    `inputs`, `outputs`: ports of the model; `types`: ONNX node -> layer type; `layers`: as the builder logged them;
    `builds`: `hwprofiles.measurement.Build` of each build that was tried, this one first; `failed`: why others of them
    came to nothing; `kernels`: where TensorRT-RTX may keep what it compiles for it.
    """

    def __init__(self, plan: bytes, facts: Mapping[str, Any], seconds: float) -> None:
        self.plan = plan
        self.digest = hashlib.sha256(plan).hexdigest()
        self.seconds = seconds
        self.inputs: list[dict[str, Any]] = list(facts["inputs"])
        self.outputs: list[dict[str, Any]] = list(facts["outputs"])
        self.types: dict[str, str] = dict(facts["types"])
        self.layers: list[dict[str, Any]] = list(facts["layers"])
        self.builds: list[dict[str, Any]] = list(facts.get("builds", ()))
        self.failed: list[str] = list(facts.get("failed", ()))
        self.kernels: Path | None = None


class Engines:
    """Engines of one target. `notes` says what a person should know of how they came about.

    `identity`: what runs them, in any JSON values; `timeout`: seconds for one build; `limit`: bytes of the cache.
    Where `folder` cannot be written there is no cache, and a note.
    """

    def __init__(
        self, folder: Path, scratch: Path, request: Mapping[str, Any], identity: Any, timeout: float, limit: int
    ) -> None:
        self.notes: list[str] = []
        self._scratch = scratch
        self._timeout = timeout
        self._limit = limit
        self._request = {key: request[key] for key in _SHARED}
        self._identity = identity
        self._folder: Path | None = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._folder = None
            self._note(f"engines are not kept: {folder} cannot be made ({error.strerror})")

    def describe(self, model: str) -> dict[str, Any]:
        """`inputs` and `outputs` of a model, by TensorRT's parser. Raises `BuildProblem`."""
        return self._child({"model": model, "shapes": {}})

    def get(self, model: str, shapes: Mapping[str, list[list[int]]]) -> Engine:
        """The engine of this model for inputs of these shapes, out of the cache or built. Raises `BuildProblem`."""
        return self.known(model, shapes) or self._keep(self._key(model, shapes), self.build(model, shapes))

    def known(self, model: str, shapes: Mapping[str, list[list[int]]]) -> Engine | None:
        """The same, if it is in the cache."""
        return self._find(self._key(model, shapes))

    def again(self, model: str, shapes: Mapping[str, list[list[int]]], why: str) -> Engine:
        """Build what the cache had but nothing can run. Raises `BuildProblem`."""
        self._note(why)
        return self._keep(self._key(model, shapes), self.build(model, shapes))

    def choose(
        self, model: str, shapes: Mapping[str, list[list[int]]], engines: list[Engine], failed: Iterable[str] = ()
    ) -> None:
        """Keep the first of these builds as the engine of the model, with a record of all of them, and of those that
        `failed`, in words."""
        first = engines[0]
        first.failed = list(failed)
        first.builds = [build for engine in engines for build in engine.builds[:1]]
        self._keep(self._key(model, shapes), first)

    def build(self, model: str, shapes: Mapping[str, list[list[int]]], *, fresh: bool = False) -> Engine:
        """Build, whatever the cache has; `fresh`: with every kernel timed anew. Raises `BuildProblem`."""
        with tempfile.TemporaryDirectory(prefix="engine-", dir=str(self._scratch)) as folder:
            plan = Path(folder) / "plan"
            cached = self._folder if not fresh and self._request["runtime"] != "tensorrt-rtx" else None  # RTX has none
            timings = "" if cached is None else str(cached / f"{self._name()}.timing")
            told = self._child({"model": model, "shapes": dict(shapes), "plan": str(plan), "timing_cache": timings})
            for note in told["notes"]:
                self._note(note)
            engine = Engine(plan.read_bytes(), told, float(told["seconds"]))
        engine.builds = [{"digest": engine.digest, "seconds": engine.seconds, "latency": None}]
        return engine

    def try_card(self) -> None:
        """Build a small engine for the card here and load it, in a process of its own. Raises `BuildProblem`."""
        with tempfile.TemporaryDirectory(prefix="engine-", dir=str(self._scratch)) as folder:
            model = Path(folder) / "model.onnx"
            model.write_bytes(_SMALL)
            self._child({"model": str(model), "shapes": {}, "plan": str(Path(folder) / "plan"), "load": True})

    def _find(self, key: str) -> Engine | None:
        """What lies in the cache, if it is what was put there."""
        if self._folder is None:
            return None
        facts_file, plan_file = self._folder / f"{key}.json", self._folder / f"{key}.engine"
        try:
            facts, plan = json.loads(facts_file.read_text()), plan_file.read_bytes()
            engine = Engine(plan, facts, 0.0)
            if engine.digest == facts["digest"]:
                engine.kernels = self._folder / f"{key}.kernels"
                os.utime(str(plan_file))
                return engine
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError):
            pass
        self._note(f"the engine in the cache ({plan_file.name[:12]}) was damaged; it was built anew")
        return None

    def _keep(self, key: str, engine: Engine) -> Engine:
        if self._folder is None:
            return engine
        engine.kernels = self._folder / f"{key}.kernels"
        names = ("digest", "inputs", "outputs", "types", "layers", "builds", "failed")
        facts = {name: getattr(engine, name) for name in names}
        try:
            self._make_room(len(engine.plan))
            for suffix, data in ((".engine", engine.plan), (".json", json.dumps(facts).encode())):
                tensorrt_build.save(self._folder / (key + suffix), data)
        except OSError as error:
            self._note(f"the engine was not kept: {error.strerror}")
        return engine

    def _make_room(self, coming: int) -> None:
        """Those that were not used for longest go first."""
        assert self._folder is not None
        files = []
        for path in self._folder.glob("*.engine"):
            try:
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            except FileNotFoundError:
                continue
        total = coming + sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit:
                return
            for gone in (path, path.with_suffix(".json"), path.with_suffix(".kernels")):
                gone.unlink(missing_ok=True)
            total -= size

    def _key(self, model: str, shapes: Mapping[str, list[list[int]]]) -> str:
        with Path(model).open("rb") as file:
            digest = hashlib.sha256()
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
        return _digest([self._name(), digest.hexdigest(), sorted(shapes.items())])

    def _name(self) -> str:
        """Of what all engines of this target share."""
        return _digest([self._request, self._identity])[:32]

    def _child(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run the builder in a process of its own. Raises `BuildProblem`, also for its death."""
        with tempfile.TemporaryDirectory(prefix="build-", dir=str(self._scratch)) as folder:
            asked, answered, said = (Path(folder) / name for name in ("request.json", "result.json", "log"))
            asked.write_text(json.dumps({**self._request, **request}))
            program = _PROGRAM.format(str(Path(tensorrt_build.__file__).parents[2]))
            with said.open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-c", program, str(asked), str(answered)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
                try:
                    code = process.wait(self._timeout)
                except subprocess.TimeoutExpired:
                    raise BuildProblem(
                        "timeout",
                        f"the engine was not built within {self._timeout:g} s; raise `timeout` in the target's "
                        "profile, or lower options.builder_level",
                    ) from None
                finally:
                    process.kill()
                    process.wait()
            if code:
                raise BuildProblem("crash", f"the builder died: {codes.spell_child(code)}{_last_line(said)}")
            try:
                told: dict[str, Any] = json.loads(answered.read_text())
            except (OSError, ValueError) as error:
                raise BuildProblem("crash", f"the builder left no result: {error}") from error
        if "problem" in told:
            raise BuildProblem(told["problem"]["kind"], told["problem"]["message"])
        return told

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def cache_folder() -> Path:
    """Where engines are kept between studies."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hw-autotune" / "engines"


def ranges(shapes: Iterable[Mapping[str, list[int]]]) -> dict[str, list[list[int]]]:
    """Input -> least, usual and greatest dimensions over all of these feeds; the first is what is usual."""
    found: dict[str, list[list[int]]] = {}
    for feed in shapes:
        for name, dims in feed.items():
            known = found.setdefault(name, [list(dims), list(dims), list(dims)])
            if len(known[0]) != len(dims):
                raise BuildProblem(
                    "bad_model", f"input {name!r} was given with {len(known[0])} and {len(dims)} dimensions"
                )
            known[0] = [min(pair) for pair in zip(known[0], dims)]  # noqa: B905  (Python 3.9; equally long)
            known[2] = [max(pair) for pair in zip(known[2], dims)]  # noqa: B905
    return found


def fits(shapes: Mapping[str, list[list[int]]], feed: Mapping[str, list[int]]) -> bool:
    """Whether an engine that was built for `shapes` takes this feed."""
    if set(feed) != set(shapes):
        return False
    for name, dims in feed.items():
        least, _, most = shapes[name]
        if len(dims) != len(least) or any(not a <= d <= b for a, d, b in zip(least, dims, most)):  # noqa: B905
            return False
    return True


def widen(
    shapes: Mapping[str, list[list[int]]], feeds: Iterable[Mapping[str, list[int]]]
) -> dict[str, list[list[int]]]:
    """Ranges that hold both, with room: a dimension that varies may go from 1 to the next power of two, so that not
    every new length of a text is another build."""
    both = ranges([*_corners(shapes), *feeds])
    for least, _, most in both.values():
        for place, (low, high) in enumerate(zip(least, most)):  # noqa: B905
            if low != high:
                least[place], most[place] = 1, 1 << (high - 1).bit_length()
    return both


def _corners(shapes: Mapping[str, list[list[int]]]) -> list[dict[str, list[int]]]:
    """The usual, the least and the greatest feed; the usual stays the usual."""
    return [{name: dims[place] for name, dims in shapes.items()} for place in (1, 0, 2)]


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _last_line(log: Path) -> str:
    """What it printed last, if anything."""
    lines = [line.strip() for line in log.read_bytes()[-4000:].decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""
