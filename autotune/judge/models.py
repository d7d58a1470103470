"""Two model files judged against each other, whatever made the second one: no study, no search, nothing kept."""

from __future__ import annotations

import hashlib
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from autotune import perturbations, slices
from autotune.config import JudgeTable
from autotune.config.workload_checks import check_judged
from autotune.errors import DataError
from autotune.evaluation import Evaluation, SliceResult
from autotune.judge.asked import Asked
from autotune.judge.noise import NoiseFloor, noise_floor
from autotune.judge.predictions import predict_beside
from autotune.judge.slicing import asked_for, automatic_columns, fit_automatic
from autotune.judge.verdicts import judge
from autotune.slices.automatic import Bands
from autotune.workload import Dataset, Workload
from hwprofiles.comparison.answers import with_file_names
from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure, HardwareError
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.registry import find_target
from hwprofiles.target import Target

_LOOK, _AGAIN = 2.0, 60.0  # seconds between two looks at who holds the device, and until it is told again

Outcome = Literal["pass", "fail", "undecided"]
Which = Literal["heldout", "search", "both"]


class ModelJudgement(BaseModel):
    """What `judge_models` found: one Evaluation per data set ("search", "heldout"), and the noise floor of each.

    `limits` are the slices' own ones, `asked` the slices that were asked for by name (`judge.asked`), `floor` the
    samples that one needs to be judged. `original_digest` and `candidate_digest` are sha256 of the models' files,
    `code` those of the source files of decode, confidence, metrics, slices and perturbations
    (`Workload.code_digests`); the data's are in the evaluations. `notes` say what a reader should know of the slices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    original: str
    candidate: str
    target: str
    fingerprint: Fingerprint
    limit: float
    limits: dict[str, float]
    evaluations: tuple[Evaluation, ...]
    noise: dict[str, NoiseFloor]
    notes: tuple[str, ...] = ()
    floor: int | None = None  # None: not written down
    asked: tuple[str, ...] = ()
    original_digest: str = ""
    candidate_digest: str = ""
    code: dict[str, str] = {}

    @property
    def verdict(self) -> Outcome:
        """ "fail" when a slice fails, also a small one that certainly does; "undecided" when one is, or when one that
        was asked for by name, by a limit of its own or as the whole is too small; else "pass".

        Any other slice that is too small for a verdict (one value of a column among many), and one that is only a
        hypothesis, are shown and do not decide: `not_judged`.
        """
        verdicts = {result.verdict for result in self.deciding()}
        if "fail" in verdicts:
            return "fail"
        return "pass" if verdicts <= {"pass"} else "undecided"

    def deciding(self) -> tuple[SliceResult, ...]:
        """The slices on which the verdict rests, of all data sets."""
        return tuple(result for evaluation in self.evaluations for result in self.deciding_of(evaluation))

    def deciding_of(self, evaluation: Evaluation) -> tuple[SliceResult, ...]:
        """The same of one data set."""
        return tuple(
            r for r in evaluation.slices if not r.hypothesis and (r.verdict != "insufficient" or self._counts(r))
        )

    def not_judged(self, evaluation: Evaluation) -> tuple[SliceResult, ...]:
        """The slices of one data set that are too small for a verdict, and do not decide."""
        deciding = self.deciding_of(evaluation)
        return tuple(r for r in evaluation.slices if not r.hypothesis and r not in deciding)

    def _counts(self, result: SliceResult) -> bool:
        """Whether it must not be passed over, however small it is."""
        plain = result.name.removeprefix(f"{result.metric}:") if result.metric else result.name
        return result.name in self.limits or result.name == slices.ALL or plain in self.asked


def judge_models(
    original: str | Path,
    candidate: str | Path,
    workload: Workload,
    *,
    target: str | Target = "local",
    table: JudgeTable | None = None,
    limits: Mapping[str, float] | None = None,
    data: Which = "heldout",
    declarations: slices.Slices | None = None,
    folders: Iterable[Path] = (),
    share: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
) -> ModelJudgement:
    """Run both ONNX files on the workload's data and judge the candidate slice by slice.

    The files need the inputs that the samples have and the outputs that the workload's `decode` reads; the workload's
    own model, its calibration and training data and a data set that is not judged are not looked at. `table` is as
    `[judge]` of a study, `limits` gives slices their own largest drop ("all": that over all samples), `declarations`
    replace the workload's slices, whose functions they may call. The noise floor is measured unless `table.noise` is
    off. `share` is 1 / N where this is one of N candidates that are chosen among (`verdicts.judge`).

    Raises `DataError` for files and samples that cannot be judged, `UsageError` for unknown slices, both before any
    model runs; `DeviceFailure` and `TrialFailure` when a model, `decode` or a metric fails, `TargetUnavailable`.
    """
    rules = table or JudgeTable()
    paths = [_model(original), _model(candidate)]
    place = find_target(target, folders=list(folders)) if isinstance(target, str) else target
    names = {"heldout": ("heldout",), "search": ("search",), "both": ("search", "heldout")}[data]
    check_judged(workload, names)
    datasets = [getattr(workload, name) for name in names]
    asked = Asked.of(workload, declarations, rules, limits)
    asked.check(datasets)
    with (
        tempfile.TemporaryDirectory(prefix="autotune-judge-") as scratch,
        open_device(place, work=Path(scratch)) as device,
        _telling_waits(device, say),
    ):
        judging = _Judging(paths, asked, place, device, Path(scratch), share, say)
        try:
            found = [judging.run(each) for each in datasets]
        except DeviceFailure as error:  # the device knows models by their digests
            raise DeviceFailure(with_file_names(error.failure, {_digest(path): str(path) for path in paths})) from error
        fingerprint = device.fingerprint
    return ModelJudgement(
        original=str(original),
        candidate=str(candidate),
        target=place.name,
        fingerprint=fingerprint,
        limit=rules.limit,
        limits=dict(limits or {}),
        evaluations=tuple(found),
        noise=judging.noise,
        notes=tuple(dict.fromkeys(judging.notes)),
        floor=rules.floor,
        asked=tuple(dict.fromkeys(judging.by_name)),
        original_digest=_digest(paths[0]),
        candidate_digest=_digest(paths[1]),
        code=workload.code_digests(asked.declared),
    )


class _Judging:
    """The same two models on one data set after the other; bands are fitted on the first of them."""

    def __init__(
        self,
        paths: list[Path],
        asked: Asked,
        target: Target,
        device: Device,
        scratch: Path,
        share: float,
        say: Callable[[str], None],
    ) -> None:
        self._paths, self._asked, self._target, self._device = paths, asked, target, device
        self._scratch, self._share, self._say = scratch, share, say
        self._cut: tuple[tuple[Bands, ...], tuple[slices.Declaration, ...]] | None = None
        self.noise: dict[str, NoiseFloor] = {}
        self.notes: list[str] = []
        self.by_name: list[str] = []

    def run(self, given: Dataset) -> Evaluation:
        """Predictions, slices, noise and verdicts on one data set."""
        workload, table, metrics = self._asked.workload, self._asked.table, self._asked.metrics
        dataset = perturbations.perturbed(given, self._asked.declared, workload)
        workers = table.workers or max(1, self._device.fingerprint.cores // self._target.threads)
        self._say(f"both models answer {len(dataset)} {dataset.name} samples on {self._target.name}")
        before, after = predict_beside(
            self._device,
            self._paths[0],
            self._paths[1],
            dataset,
            workload.decode,
            batch=table.batch,
            workers=workers,
            confidence=workload.confidence,
        )
        if self._cut is None:
            bands = fit_automatic(given, asked_for(self._asked.declared, table.automatic), before)
            columns = automatic_columns(dataset, bands, before)
            self._cut = bands, slices.fixed(dataset, self._asked.declared, columns=columns)
        bands, declared = self._cut
        columns = automatic_columns(dataset, bands, before)
        automatic = [slices.Declaration(kind) for kind in table.automatic if kind in columns]
        masks = slices.assign(dataset, [*declared, *automatic], columns=columns, floor=table.floor)
        self._asked.check_limits(list(masks), dataset.name)  # bands of difficulty that there are none of
        self.by_name += self._asked.by_name(masks, declared)
        self.notes += masks.notes
        if table.noise:
            self._say("the original answers once more, run another way: the noise floor")
            self.noise[dataset.name] = noise_floor(
                self._paths[0],
                self._device,
                dataset,
                masks,
                metrics,
                before,
                workload.decode,
                batch=table.batch,
                workers=workers,
                work=self._scratch,
            )
        return judge(
            artifact=_digest(self._paths[1]),
            target=self._target.name,
            dataset=dataset,
            masks=masks,
            metrics=metrics,
            original=before,
            candidate=after,
            table=table,
            limits=self._asked.limits,
            kinds=masks.kinds,
            noise=self.noise[dataset.name].drops if table.noise else None,
            share=self._share,
        )


@contextmanager
def _telling_waits(device: Device, say: Callable[[str], None]) -> Iterator[None]:
    """Whoever times something holds the device alone, and everything here waits meanwhile: who it is, is told."""
    done = threading.Event()

    def watch() -> None:
        told = -math.inf
        while True:
            try:
                holder = device.holder()
            except HardwareError:  # whoever needs the device meets the same, and says it better
                holder = None
            if holder is not None and not done.is_set() and time.monotonic() - told >= _AGAIN:
                told = time.monotonic()
                say(f"waiting for {device.target.name}: it is in use by {holder}")
            if done.wait(_LOOK):
                return

    watcher = threading.Thread(target=watch, name="judge-waits", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _model(given: str | Path) -> Path:
    path = Path(given)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give an ONNX model")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
