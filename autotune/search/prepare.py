"""Everything that is done once for a study with its devices open: ingest, calibrate, build the space."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from autotune.compress.assembly import Assembler
from autotune.compress.capabilities import UNWRITABLE, Offered, Probed
from autotune.compress.ingest import Ingested, load_model
from autotune.config import Family, StudyConfig, families_of
from autotune.errors import DataError
from autotune.layers import Layer, Skipped
from autotune.recipe import Recipe
from autotune.search.calibrating import Calibrating
from autotune.search.opening import Opened
from autotune.search.progress import Progress, Watcher
from autotune.search.reading import HOST, Reader
from autotune.search.space import Space, build_space, fixed_part
from autotune.search.structure import Structure, survey
from autotune.search.suiting import suit
from autotune.techniques.protocol import Technique
from autotune.techniques.quantize import Quantize
from autotune.workload import Workload
from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure, TargetUnavailable
from hwprofiles.registry import find_target
from hwprofiles.target import Target

_COMPARED = 2  # calibration inputs on which the normalised model is compared with the file
_SAME = 1e-3  # relative to the largest output


@dataclass(frozen=True)
class Prepared:
    """A study's fixed parts. `devices` are open; `latency_inputs` is what is timed.

    `families` are the runtime families of the targets, that of the first target first; `assembler` builds for that one,
    `assemblers` has one for each dialect.
    """

    workload: Workload
    ingested: Ingested
    assembler: Assembler
    assemblers: Mapping[str, Assembler]
    families: tuple[Family, ...]
    devices: Mapping[str, Device]
    space: Space
    refused: Mapping[str, Mapping[str, str]]  # target -> "op choice" -> why not
    latency_inputs: Sequence[Mapping[str, np.ndarray]]
    workers: Mapping[str, int]  # target that judges -> processes that do so at a time
    host: Device | None = None  # this machine, for damage, where the target that judges is another one
    left_alone: Mapping[str, Sequence[Skipped]] = field(default_factory=dict)  # technique -> what it cannot touch
    structure: Structure = field(default_factory=Structure)
    lost: Sequence[str] = ()  # choices that one dialect or target takes from all, in words

    def family_of(self, target: str) -> Family:
        """The runtime family that a target belongs to."""
        return next(family for family in self.families if target in family.targets)

    def assembler_of(self, target: str) -> Assembler:
        """What builds artifacts for a target."""
        return self.assemblers[self.family_of(target).dialect]

    @property
    def judge_device(self) -> Device:
        """The device that computes the outputs that are judged: the first target."""
        return next(iter(self.devices.values()))

    @property
    def judge_target(self) -> str:
        return next(iter(self.devices))

    @property
    def timed(self) -> tuple[str, ...]:
        """The targets whose costs count: real hardware. The times of the others would say nothing, so none is taken."""
        return tuple(name for name, device in self.devices.items() if device.target.provenance == "hardware")


def workload_digest(workload: Workload, ingested: Ingested) -> str:
    """Identity of model, data and metric: a store belongs to one."""
    parts = (
        ingested.source_digest,
        workload.search.digest(),
        workload.heldout.digest(),
        workload.metric_name,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def ingest(workload: Workload, watch: Watcher) -> Ingested:
    """Read and normalise the model. Raises `DataError` with the reason."""
    watch(Progress("prepare", "reading the model"))
    return load_model(workload.model, example_inputs=workload.example_inputs, dynamic_axes=workload.dynamic_axes)


def check_same(workload: Workload, assembler: Assembler, device: Device, folder: Path, watch: Watcher) -> None:
    """Compare the normalised model with the user's file on a few inputs: everything later is compared with it.

    Raises `DataError` where they differ by more than float32 rounding. A file that this runtime cannot open as it is
    (its opset is too old, its weights lie in other files) is not compared, which `watch` is told.
    """
    if not isinstance(workload.model, str | Path):
        return
    path = folder / "normalised.onnx"
    with path.open("wb") as file:
        assembler.assemble_to(file, Recipe())
    inputs = [dict(sample) for sample in list(workload.calibration)[:_COMPARED]]
    try:
        given = list(device.infer(Path(workload.model), iter(inputs)))
    except DeviceFailure as error:
        reason = error.failure.message
        watch(Progress("prepare", f"the model was not compared with the file it was normalised from: {reason}"))
        path.unlink()
        return
    for index, (one, other) in enumerate(zip(given, device.infer(path, iter(inputs)), strict=True)):
        for name, array in one.items():
            if array.dtype.kind != "f" or array.size == 0:
                continue
            if not np.isfinite(array).all():
                raise DataError(
                    f"{workload.model}: output {name!r} of the original holds NaN or infinity on calibration input "
                    f"{index}; mend the model or its inputs first"
                )
            if array.shape != other[name].shape:
                raise DataError(f"{workload.model}: output {name!r} has another shape after normalising; report this")
            scale = max(1.0, float(np.abs(array).max()))
            difference = float(np.abs(array.astype(np.float64) - other[name]).max()) / scale
            if not difference <= _SAME:
                raise DataError(
                    f"{workload.model}: after normalising (opset conversion, folding) output {name!r} differs by "
                    f"{difference:.2g} on calibration input {index}; report this and convert the model yourself"
                )
    path.unlink()


def check_inputs(workload: Workload, model: onnx.ModelProto) -> None:
    """Hold the workload's inputs against those the model declares. Raises `DataError` naming data set and sample."""
    wanted = {v.name: v.type.tensor_type for v in model.graph.input if v.type.HasField("tensor_type")}
    named = [
        (f"{d.name} data, sample {s.id!r}", s.inputs)
        for d in (workload.search, workload.heldout, workload.train)
        if d is not None
        for s in d.samples
    ]
    named += [(f"calibration input {index}", inputs) for index, inputs in enumerate(workload.calibration)]
    for where, inputs in named:
        if set(inputs) != set(wanted):
            raise DataError(f"{where}: gives {sorted(inputs)}, the model takes {sorted(wanted)}; rename the inputs")
        for name, array in inputs.items():
            shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in wanted[name].shape.dim]
            known = wanted[name].HasField("shape")
            fits = len(shape) == array.ndim and all(
                d is None or d == n for d, n in zip(shape, array.shape, strict=True)
            )
            if known and not fits:
                asked = ", ".join("any" if d is None else str(d) for d in shape)
                raise DataError(f"{where}: input {name!r} has shape {list(array.shape)}, the model takes [{asked}]")
            kind = onnx.helper.tensor_dtype_to_np_dtype(wanted[name].elem_type)
            if array.dtype != kind:
                raise DataError(f"{where}: input {name!r} is {array.dtype}, the model takes {kind}; convert it")


def prepare(
    config: StudyConfig,
    workload: Workload,
    ingested: Ingested,
    opened: Opened,
    folder: Path,
    stack: ExitStack,
    watch: Watcher,
) -> Prepared:
    """Calibrate, and build the space of what all open devices can run.

    Raises hardware errors for a target that goes away and `DataError` for unusable calibration data.
    """
    techniques, assemblers, devices, probed = opened.techniques, opened.assemblers, opened.devices, opened.probed
    families = families_of([device.target for device in devices.values()])
    layers = ingested.inspection.layers
    assembler = assemblers[families[0].dialect]
    others = tuple(made for made in assemblers.values() if made is not assembler)
    judge_device = next(iter(devices.values()))
    check_same(workload, assembler, judge_device, folder, watch)
    if layers:
        reader = Reader(devices, assembler, folder, stack, watch)
        calibrating = Calibrating(workload, ingested, assembler, reader, folder, others)
        calibrating.begin(fixed_part(techniques), watch)
    suit(techniques, workload, ingested, devices, probed)
    left_alone = {name: tuple(technique.survey(assembler.original())) for name, technique in techniques.items()}
    capabilities = Offered(tuple(probed.values()), tuple(assemblers.values()))
    space = build_space(
        layers, techniques, capabilities, groups=config.groups, exclude=config.exclude,
        most_blocks=config.search.blocks, unsearchable=[each.name for each in ingested.inspection.skipped],
    )  # fmt: skip
    space = with_guards(config, space, techniques, capabilities, layers)
    if any(technique.stage != "precision" and technique.scope == "layer" for technique in techniques.values()):
        watch(Progress("prepare", "carrying out every structural choice alone, for its size"))
    inputs = workload.latency_inputs or workload.search.samples[0].inputs
    workers = {family.judge: _workers(config, devices[family.judge]) for family in families}
    refused = {name: p.refused for name, p in probed.items()}
    host = _open_host(config, judge_device.target, folder, stack, watch)
    structure = survey(space, assembler)
    timed = [dict(inputs)]
    return Prepared(
        workload=workload,
        ingested=ingested,
        assembler=assembler,
        assemblers=assemblers,
        families=families,
        devices=devices,
        space=space,
        refused=refused,
        latency_inputs=timed,
        workers=workers,
        host=host,
        left_alone=left_alone,
        structure=structure,
        lost=_lost(families, probed),
    )


def with_guards(
    config: StudyConfig,
    space: Space,
    techniques: Mapping[str, Technique],
    capabilities: Offered,
    layers: Sequence[Layer],
) -> Space:
    """The space with the uniform recipe of every guarded family among its uniform ones, also where the study's own
    choices leave that format out: it is what a searched recipe has to beat."""
    formats = techniques.get(Quantize.name)
    missing = dict.fromkeys(f.guard for f in config.families if f.guard and f.guard not in dict(space.uniform))
    made = []
    for choice in missing if formats is not None else ():
        offered = [layer.name for layer in layers if capabilities.supports(layer, choice)]
        searched = [name for name in offered if not any(fnmatch.fnmatch(name, each) for each in config.exclude)]
        if searched:
            fixed = fixed_part(techniques).to_dict()
            made.append((choice, Recipe({**fixed, Quantize.name: dict.fromkeys(searched, choice)})))
    return replace(space, uniform=(*made, *space.uniform)) if made else space


def _workers(config: StudyConfig, device: Device) -> int:
    """Processes that judge at a time: as many as the cores have room for; an accelerator is one device for all."""
    if config.judge.workers or device.fingerprint.accelerator:
        return config.judge.workers or 1
    return max(1, device.fingerprint.cores // device.target.threads)


def _lost(families: Sequence[Family], probed: Mapping[str, Probed]) -> tuple[str, ...]:
    """Choices that some target runs and that are none for the study, because another family's dialect has no way to
    write them. (What a target refuses to run is in `refused`.)"""
    anywhere = sorted({pair for found in probed.values() for pair in found.runs})
    told = []
    for family in families if len(families) > 1 else ():
        refused = probed[family.judge].refused
        gone: dict[str, list[str]] = {}  # choice -> types of layers
        for op, choice in anywhere:
            if refused.get(f"{op} {choice}") == UNWRITABLE:
                gone.setdefault(choice, []).append(op)
        alike: dict[str, list[str]] = {}
        for choice, ops in gone.items():
            alike.setdefault(", ".join(ops), []).append(choice)
        listed = "; ".join(f"{ops}: {', '.join(choices)}" for ops, choices in alike.items())
        if gone:
            told.append(
                f"no choice for any target, because the dialect of {' and '.join(family.targets)}, {family.dialect}, "
                f"cannot write it: {listed}"
            )
    return tuple(told)


def _open_host(config: StudyConfig, judge: Target, folder: Path, stack: ExitStack, watch: Watcher) -> Device | None:
    """This machine as a device that computes damage for a target that is far away; None where that is no gain."""
    local = find_target(HOST)
    alike = (local.runtime, local.dialect) == (judge.runtime, judge.dialect)
    if not config.judge.probe or judge.transport == "local" or local.transport != "local" or not alike:
        return None
    watch(Progress("prepare", f"opening this machine, which finds sensitive layers in place of {judge.name}"))
    try:
        return stack.enter_context(open_device(local, work=folder / "work" / "damage"))
    except TargetUnavailable as error:
        watch(Progress("prepare", f"sensitive layers are found on {judge.name} itself: {error}"))
        return None
