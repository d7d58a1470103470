"""What every runtime must do. Derive a test class, say which runtime and target, and run it with pytest.

class TestMyRuntime(RuntimeConformance):
    runtime = MyRuntime()
    target = Target(name="mine", runtime="my")
    opens = staticmethod(open_device)  # of hwprofiles.device
    module = "my_runtime"

The target's runtime must be registered and usable on this machine.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from hwprofiles.agent.archive import build_agent
from hwprofiles.errors import DeviceFailure, TargetUnavailable
from hwprofiles.measurement import Kernel
from hwprofiles.runtimes.protocol import Runtime, shipped
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target

if TYPE_CHECKING:
    from hwprofiles.device import Device

# y = relu(x @ w) with x of shape [batch, 8] and w = 0..31 as [8, 4] minus 16; opset 17.
_MODEL = base64.b64decode(
    "CAg65wEKEQoBeAoBdxIBaCIGTWF0TXVsCgwKAWgSAXkiBFJlbHUSAWcqjAEICAgEEAFCAXdKgAEAAIDBAABwwQAAYMEAAFDBAABAwQAAMMEAACDB"
    "AAAQwQAAAMEAAODAAADAwAAAoMAAAIDAAABAwAAAAMAAAIC/AAAAAAAAgD8AAABAAABAQAAAgEAAAKBAAADAQAAA4EAAAABBAAAQQQAAIEEAADBB"
    "AABAQQAAUEEAAGBBAABwQVoYCgF4EhMKEQgBEg0KBxIFYmF0Y2gKAggIYhgKAXkSEwoRCAESDQoHEgViYXRjaAoCCARCBAoAEBE="
)
_WEIGHTS = np.arange(32, dtype=np.float32).reshape(8, 4) - 16
_QUICK = Scenario(
    batch=2,
    warmup_seconds=0.0,
    warmup_iterations=5,
    block_seconds=0.001,
    block_iterations=5,
    min_pairs=3,
    max_pairs=3,
    precision=0.5,
    max_seconds=60,
    memory_runs=1,
)


class Opens(Protocol):
    """`hwprofiles.device.open_device`."""

    def __call__(self, target: Target, *, work: Path) -> Device: ...


class RuntimeConformance:
    """Each test opens the target afresh. `patience` bounds a request, in seconds."""

    runtime: ClassVar[Runtime]
    target: ClassVar[Target]
    opens: Opens
    module: ClassVar[str] = ""  # what only the device side may import; empty if that can be anything
    patience: ClassVar[float] = 60.0
    oldest: ClassVar[tuple[int, int]] = (3, 9)  # Python that the device side must parse on

    def test_computes(self, tmp_path: Path) -> None:
        x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
        with self._open(tmp_path) as device:
            (out,) = device.infer(self._model(tmp_path), [{"x": x}])
        assert set(out) == {"y"} and out["y"].dtype == np.float32
        np.testing.assert_allclose(out["y"], np.maximum(x @ _WEIGHTS, 0), rtol=1e-5, atol=1e-5)

    def test_answers_many_inputs_in_their_order(self, tmp_path: Path) -> None:
        feeds = [{"x": np.full((batch, 8), batch, np.float32)} for batch in (1, 3, 2, 5)]
        with self._open(tmp_path) as device:
            answers = [out["y"] for out in device.infer(self._model(tmp_path), feeds)]
        assert len(answers) == len(feeds)
        for feed, answer in zip(feeds, answers, strict=True):
            np.testing.assert_allclose(answer, np.maximum(feed["x"] @ _WEIGHTS, 0), rtol=1e-5, atol=1e-5)

    def test_measures(self, tmp_path: Path) -> None:
        model = self._model(tmp_path)
        with self._open(tmp_path) as device:
            found = device.measure(model, [{"x": np.ones((2, 8), np.float32)}], baseline=model, scenario=_QUICK)
        assert found.failure is None, found.failure
        assert found.latency is not None and found.ratio is not None and found.memory is not None
        assert 0 < found.latency.median.low <= found.latency.median.value < 10
        assert found.latency.load_seconds > 0 and found.latency.first_seconds > 0 and found.latency.cpu_median >= 0
        assert found.ratio.pairs >= 3 and found.ratio.estimate.value > 0
        assert found.memory.run_peak >= found.memory.import_only > 1 << 20

    def test_names_the_kernels_that_ran_or_says_that_it_cannot(self, tmp_path: Path) -> None:
        with self._open(tmp_path) as device:
            try:
                kernels = device.kernels(self._model(tmp_path), {"x": np.ones((2, 8), np.float32)})
            except DeviceFailure as error:
                assert error.failure.kind == "unsupported"
                return
        assert kernels and all(isinstance(kernel, Kernel) and kernel.provider for kernel in kernels)
        assert all(kernel.seconds >= 0 for kernel in kernels) and sum(kernel.seconds for kernel in kernels) > 0

    def test_refuses_what_is_no_model_and_lives_on(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(b"\x08\x07garbage")
        x = np.ones((1, 8), np.float32)
        with self._open(tmp_path) as device:
            failure = self._failure(device, broken, {"x": x})
            assert failure.kind == "bad_model" and "\n" not in failure.message
            assert len(list(device.infer(self._model(tmp_path), [{"x": x}]))) == 1

    def test_refuses_inputs_that_do_not_fit(self, tmp_path: Path) -> None:
        with self._open(tmp_path) as device:
            failure = self._failure(device, self._model(tmp_path), {"x": np.ones((1, 9), np.float32)})
            assert failure.kind in ("bad_model", "unsupported") and "\n" not in failure.message

    def test_says_what_it_is(self, tmp_path: Path) -> None:
        with self._open(tmp_path) as device:
            found = device.fingerprint
        assert (found.runtime, found.provider, found.threads) == (
            self.target.runtime,
            self.target.provider,
            self.target.threads,
        )
        assert found.runtime_version and found.provider in found.providers
        assert found.cores >= 1 and found.memory_total > 1 << 28

    def test_is_the_same_each_time(self, tmp_path: Path) -> None:
        keys = []
        for _ in range(2):
            with self._open(tmp_path) as device:
                keys.append(device.fingerprint.key)
        assert keys[0] == keys[1]

    def test_refuses_a_provider_that_is_not_there(self, tmp_path: Path) -> None:
        try:
            self._open(tmp_path, provider="NoSuchExecutionProvider").close()
        except TargetUnavailable as error:
            assert "NoSuchExecutionProvider" in str(error) and "\n" not in str(error)
        else:
            raise AssertionError("a provider that nobody has was accepted")

    def test_host_side_keeps_its_contract(self) -> None:
        assert json.loads(json.dumps(self.runtime.options(self.target))) == self.runtime.options(self.target)
        assert all(path.is_file() and Path(name).name == name for name, path in self.runtime.files(self.target).items())
        assert isinstance(self.runtime.address_space(self.target), int)
        assert "\n" not in self.runtime.install_hint(self.target)
        program = build_agent(self.runtime.backend(), shipped(self.runtime))
        assert program == build_agent(self.runtime.backend(), shipped(self.runtime))

    def test_device_side_is_old_enough_python(self) -> None:
        """What travels must parse on that Python and import nothing of ours that does not travel with it."""
        program = build_agent(self.runtime.backend(), shipped(self.runtime))
        with zipfile.ZipFile(io.BytesIO(program)) as archive:
            there = {name.removesuffix(".py").replace("/", ".") for name in archive.namelist()}
            own = [name.replace(".", "/") + ".py" for name in ("agent_backend", *shipped(self.runtime))]
            for name in own:
                for node in ast.walk(ast.parse(archive.read(name), feature_version=self.oldest)):
                    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                    if isinstance(node, ast.ImportFrom):
                        inside = {f"{node.module}.{alias.name}" for alias in node.names} & there
                        names += inside or [node.module or ""]
                    ours = [name for name in names if name.partition(".")[0] in ("hwprofiles", "autotune")]
                    assert set(ours) <= there, f"{name}: {ours} does not travel"

    def test_host_side_does_not_import_the_runtime(self) -> None:
        if not self.module:
            return
        code = f"import sys, {type(self.runtime).__module__}; sys.exit({self.module!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def _open(self, folder: Path, **changes: Any) -> Device:
        facts = {**self.target.model_dump(), "timeout": self.patience, **changes}
        facts["options"] = {**facts["options"], "quiet_wait": 0}
        return self.opens(Target.model_validate(facts), work=folder / "work")

    def _model(self, folder: Path) -> Path:
        path = folder / "model.onnx"
        path.write_bytes(_MODEL)
        return path

    def _failure(self, device: Device, model: Path, feed: dict[str, Any]) -> Any:
        try:
            list(device.infer(model, [feed]))
        except DeviceFailure as error:
            return error.failure
        raise AssertionError("it was accepted")
