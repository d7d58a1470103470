"""Opens the targets of a study: which of them are there, and do they run the model at all?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from autotune import plugins
from autotune.compress.assembly import Assembler
from autotune.compress.capabilities import Probed, probe
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.ingest import Ingested
from autotune.compress.plan import MS_DOMAIN
from autotune.config import StudyConfig
from autotune.errors import DataError
from autotune.recipe import Recipe
from autotune.search.progress import Progress, Watcher
from autotune.techniques.protocol import Technique
from autotune.techniques.recover import NAME as RECOVER
from autotune.techniques.recover import Recover
from autotune.workload import Workload
from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure, HardwareError, TargetUnavailable
from hwprofiles.target import Target

CHECKPOINTS = "recovered"  # folder of recovered weights in that of the study
NotThere = TargetUnavailable | DeviceFailure | DataError


@dataclass(frozen=True)
class Opened:
    """The targets that are there: devices (open) and what they can run, by target; what builds for them, by dialect."""

    techniques: Mapping[str, Technique]
    assemblers: Mapping[str, Assembler]
    devices: Mapping[str, Device]
    probed: Mapping[str, Probed]
    absent: Mapping[str, NotThere]  # target -> why it is not among them


class Opener:
    """Opens targets for one study, one by one. The devices are closed by `stack`."""

    def __init__(
        self,
        config: StudyConfig,
        workload: Workload,
        ingested: Ingested,
        folder: Path,
        stack: ExitStack,
        watch: Watcher,
    ) -> None:
        """Raises `UsageError` and `ConfigError` for techniques whose options cannot be."""
        self._workload, self._ingested = workload, ingested
        self._folder, self._stack, self._watch = folder, stack, watch
        self._techniques = make_techniques(config)
        self._dialects: dict[str, Dialect] = {}
        self._assemblers: dict[str, Assembler] = {}

    def open(self, targets: Sequence[Target]) -> Opened:
        """All of `targets` that are there and run the original model, in their order.

        Raises `TargetBusy`, `BadProfile` and what is wrong with the files of this machine; what one target lacks is a
        value of `Opened.absent`.
        """
        devices: dict[str, Device] = {}
        probed: dict[str, Probed] = {}
        absent: dict[str, NotThere] = {}
        for target in targets:
            self._watch(Progress("prepare", f"opening target {target.name}"))
            where = f"target {target.name}" if len(targets) > 1 else "the target"
            try:
                with ExitStack() as own:
                    device = own.enter_context(self._running(target, where))
                    found = probe(device, self._dialect(target.dialect), device.fingerprint.key, self._folder)
                    kept = own.pop_all()
            except (TargetUnavailable, DeviceFailure, DataError) as error:
                absent[target.name] = error
                continue
            self._stack.enter_context(kept)
            devices[target.name], probed[target.name] = device, found
        there = {device.target.dialect for device in devices.values()}
        assemblers = {name: made for name, made in self._assemblers.items() if name in there}
        return Opened(self._techniques, assemblers, devices, probed, absent)

    def missing(self, target: Target) -> NotThere | None:
        """Why a target cannot take part now; None where it could. It is closed again. Raises as `open`."""
        try:
            self._running(target, f"target {target.name}").close()
        except (TargetUnavailable, DeviceFailure, DataError) as error:
            return error
        return None

    def _running(self, target: Target, where: str) -> Device:
        """The open target, after it has run the original model once."""
        device = open_device(target, work=self._folder / "work" / target.name)
        try:
            check_opens(self._workload, self._assembler(target.dialect), device, self._folder, where)
        except BaseException:
            device.close()
            raise
        return device

    def _dialect(self, name: str) -> Dialect:
        if name not in self._dialects:
            self._dialects[name] = plugins.load("hw_autotune.dialects", name)()
        return self._dialects[name]

    def _assembler(self, name: str) -> Assembler:
        """What builds for a dialect; what does not depend on it is shared with the others."""
        if name not in self._assemblers:
            bank = self._folder / "bank"
            known = next(iter(self._assemblers.values()), None)
            if known is None:
                # Recipes may name trained weights, whatever is searched over.
                carried_out = {**self._techniques, RECOVER: Recover()}
                self._assemblers[name] = Assembler(
                    self._ingested.model,
                    self._ingested.inspection.layers,
                    self._dialect(name),
                    carried_out,
                    bank_folder=bank,
                    checkpoints=self._folder / CHECKPOINTS,
                )
            else:
                self._assemblers[name] = known.sibling(self._dialect(name), bank_folder=bank)
        return self._assemblers[name]


def make_techniques(config: StudyConfig) -> dict[str, Technique]:
    """Techniques by name, each made from its table. Raises `UsageError`/`ConfigError`."""
    return {name: plugins.make("hw_autotune.techniques", name, table) for name, table in config.techniques.items()}


def reason(error: NotThere, target: str) -> str:
    """One line about a target that is named beside it."""
    text = error.failure.message if isinstance(error, DeviceFailure) else str(error)
    return " ".join(text.removeprefix(f"target {target!r}: ").split())


def as_hardware_error(error: NotThere, more: str) -> HardwareError | DataError:
    """The same error with a sentence behind it."""
    if isinstance(error, DeviceFailure):
        failure = error.failure.model_copy(update={"message": f"{error.failure.message}; {more}"})
        return DeviceFailure(failure, advised=True)
    return type(error)(f"{error}; {more}")


def check_opens(workload: Workload, assembler: Assembler, device: Device, folder: Path, where: str) -> None:
    """Run the normalised original once. Raises `DataError` that names the user's model when the target refuses it."""
    shown = Path(workload.model) if isinstance(workload.model, str | Path) else Path(type(workload.model).__name__)
    path = folder / "normalised.onnx"
    with path.open("wb") as file:
        assembler.assemble_to(file, Recipe())
    try:
        list(device.infer(path, iter([dict(workload.search.samples[0].inputs)])))
    except DeviceFailure as error:
        if error.failure.kind != "bad_model":
            raise
        domains = sorted(set(assembler.source.opsets) - {"", "ai.onnx", MS_DOMAIN})
        hint = f"; it uses the domains {', '.join(domains)}, which need a runtime that has them" if domains else ""
        said = re.sub(r"Load model from \S+ failed:", "", error.failure.message.rpartition(" : ")[2])
        raise DataError(f"{shown}: {where} cannot run the original model: {said}{hint}") from error
    finally:
        path.unlink(missing_ok=True)
