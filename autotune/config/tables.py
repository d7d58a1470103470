"""What a study file says: `study.toml` as typed, frozen tables. Unknown keys are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from autotune.config.families import Family, LeftOut, at, belongs_to_a_family, check_shared
from autotune.keys import COST_METRICS, WORST, WORST_ANYWHERE, MetricKey, parse_key
from hwprofiles.scenario import FINAL, SEARCH, Scenario
from hwprofiles.target import Target

LEAST_DROP = 1e-6  # one answer in a million: no data set tells a smaller loss from none


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkloadTable(_Table):
    """`task` is FILE.py:FUNCTION relative to the study folder; the function returns a Workload. It is user
    code.
    """

    task: str = "task.py:workload"


class SearchTable(_Table):
    """`objectives` are metric keys. The run stops after `trials` or `hours`, whichever comes first, or with
    `until_stable` when the front has stopped moving. `swaps` is the share of the search time for timing one choice in
    one block of layers at a time, on the targets, before the sampler proposes; 0: none."""

    objectives: tuple[str, ...] = ()  # default: see `StudyConfig.objective_keys`
    sampler: str = "surrogate"
    sampler_options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    trials: int = Field(default=40, ge=1)
    hours: float | None = Field(default=None, gt=0)
    until_stable: bool = False  # stop before that when more trials promise nothing
    blocks: int = Field(default=8, ge=0)  # most decisions per structural technique; 0: one for each layer
    swaps: float = Field(default=0.1, ge=0, lt=1)
    warm_start: tuple[str, ...] = ()  # stores, store files with #STUDY, or recipe files to learn from
    seed: int = 0


class QuantizeTable(_Table):
    """Choices of the technique `quantize`; empty means every choice that the targets can run."""

    choices: tuple[str, ...] = ()
    rounding: Literal["nearest", "gptq"] = "nearest"
    bias_correction: bool = False
    calibration: Literal["minmax", "percentile", "entropy"] = "minmax"
    percentile: float = Field(default=99.99, gt=50, le=100)
    calibration_samples: int = Field(default=64, ge=1)


class GroupTable(_Table):
    """Layers whose names match one of the glob patterns share one choice."""

    name: str
    layers: tuple[str, ...]


class JudgeTable(_Table):
    """`limit` is the largest acceptable drop of any slice (fraction); `floor` the smallest slice that gets a verdict;
    `shrinkage` how many samples at the overall rate are pooled into a slice's variance; `probe` the number of samples
    on which damage is computed."""

    limit: float = Field(default=0.01, gt=0, lt=1)
    floor: int = Field(default=200, ge=1)
    shrinkage: float = Field(default=50.0, ge=0)
    probe: int = Field(default=96, ge=0)
    batch: int = Field(default=1, ge=1)
    automatic: tuple[Literal["difficulty", "size"], ...] = ("difficulty", "size")  # slices that nobody has to declare
    discover: int = Field(default=3, ge=0)  # most slices that are discovered from disagreement
    noise: bool = True  # judge the original against itself, so that a drop inside the noise is called that
    sequential: bool = True  # judge in growing parts of the search data and stop when a recipe is hopeless
    workers: int | None = Field(default=None, ge=1)  # processes that judge; None: one per core and target thread


class FinalistsTable(_Table):
    """How many points of the front are measured again and judged on held-out data at the end of a run.

    `parity` held-out samples of each are run on every target and compared with a float64 reference; 0: none. No
    further sample is begun after `parity_seconds`.
    """

    count: int = Field(default=3, ge=0)
    parity: int = Field(default=4, ge=0)
    parity_seconds: float = Field(default=20.0, gt=0)


class RecoverTable(_Table):
    """Training of finalists on `Workload.train`, taught by the original; without this table none is trained.

    The `count` recipes from which training promises most are trained, each until `minutes` or `steps` have passed or
    validation has stopped to improve for `patience` looks. `soft`, `hard` and `features` weigh distillation from the
    original at `temperature`, the workload's own loss (1 where it has one), and the match of inner activations;
    `compare` says what the outputs are where the graph does not tell. A step moves a tensor by at most about
    `relative_rate` of its root mean square, which is found by short tries where nothing is said; `learning_rate` is an
    absolute rate in its place. `batch` is in samples.
    `lora_rank` above 0 trains adapters of that rank over frozen weights. With `weigh_slices` samples of slices that the
    recipe hurts count more. A gain is one of at least `least_gain` of the loss. Of the `checkpoints` that improved, at
    most so many become trials. `cuts` above 1: what a recipe prunes goes in so many cuts, with training between.

    Before that, in the search, every new structure (what is pruned, factorised, sparsified) is trained for `start`
    seconds, or `start_steps`, before it is judged; all recipes of that structure begin with these weights. 0: none is.
    """

    count: int = Field(default=2, ge=1)
    minutes: float = Field(default=2.0, gt=0)
    start: float = Field(default=10.0, ge=0)
    start_steps: int | None = Field(default=None, ge=1)  # None: the time alone ends it
    steps: int = Field(default=1000, ge=1)
    cuts: int = Field(default=1, ge=1, le=20)
    temperature: float = Field(default=2.0, gt=0)
    soft: float = Field(default=1.0, ge=0)
    hard: float | None = Field(default=None, ge=0)
    features: float = Field(default=0.0, ge=0)
    compare: Literal["auto", "distributions", "numbers"] = "auto"
    relative_rate: float | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    batch: int = Field(default=32, ge=1)
    lora_rank: int = Field(default=0, ge=0)
    weigh_slices: bool = True
    patience: int = Field(default=6, ge=1)
    least_gain: float = Field(default=0.005, ge=0, lt=1)
    checkpoints: int = Field(default=2, ge=1, le=10)

    @field_validator("cuts")
    @classmethod
    def _steps_for_each(cls, cuts: int, info: ValidationInfo) -> int:
        if cuts > info.data.get("steps", cuts):
            known = {"steps": info.data["steps"]}
            raise PydanticCustomError("cuts", "should be at most steps ({steps}), which are shared out", known)
        return cuts


class PatienceTable(_Table):
    """What a run does about a target that is gone or busy; times in seconds.

    It is tried again after each of the `pauses`, the last of which repeats, while the study goes on with everything
    else. After `failures` in a row it is quarantined: nothing waits for it any more, but it is still asked, and comes
    back when it answers. Up to `waiting` unfinished trials may wait for targets, then nothing new is begun. A run that
    has nothing else to do in the middle of its search waits for `seconds` before it ends.
    """

    pauses: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(10.0, 30.0, 60.0, 120.0), min_length=1)
    failures: int = Field(default=3, ge=1)
    waiting: int = Field(default=8, ge=1)
    seconds: float = Field(default=900.0, ge=0)


def _only_quantize() -> dict[str, dict[str, object]]:
    return {"quantize": {}}


class StudyConfig(_Table):
    """A whole study file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    targets: tuple[str, ...] = ("local",)
    workload: WorkloadTable = WorkloadTable()
    search: SearchTable = SearchTable()
    techniques: dict[str, dict[str, object]] = Field(default_factory=_only_quantize)
    groups: tuple[GroupTable, ...] = ()
    exclude: tuple[str, ...] = ()  # glob patterns of layers that stay as they are
    constraints: dict[str, float] = Field(default_factory=dict)  # metric key -> largest (or smallest) allowed value
    budget: dict[str, float] = Field(default_factory=dict)  # the same, but solved for: trials are spent near it
    slices: dict[str, str] = Field(default_factory=dict)  # name -> declaration, beside those of the workload
    judge: JudgeTable = JudgeTable()
    measure: Scenario = SEARCH
    remeasure: Scenario = FINAL
    finalists: FinalistsTable = FinalistsTable()
    recover: RecoverTable | None = None
    patience: PatienceTable = PatienceTable()
    drop_probe_gate: bool = True  # judge the first part of the data before device time
    all_targets: bool = False  # refuse to start where a target is not there, and do not go on with the others
    families: tuple[Family, ...] = ()  # see `with_families`; never written by hand
    left_out: tuple[LeftOut, ...] = ()  # targets that were not there at the start: see `without`; never written by hand

    def with_families(self, families: Sequence[Family]) -> StudyConfig:
        """The same study, told of the runtime families of its targets (`worth_telling`). Raises `UsageError` for a size
        that names a target where all targets have the same file."""
        told = self.model_copy(update={"families": tuple(families)})
        for text in (*self.search.objectives, *self.constraints, *self.budget):
            check_shared(text, told.families)
        return told

    def to_json(self) -> str:
        """As the store keeps it; without what decides nothing (families, targets left out), as ever."""
        optional = {"families": self.families, "left_out": self.left_out, "all_targets": self.all_targets}
        return self.model_dump_json(exclude={name for name, value in optional.items() if not value})

    @property
    def several(self) -> bool:
        """Whether the targets are of several runtime families, each with an artifact and a judgement of its own."""
        return len(self.families) > 1

    @property
    def objective_keys(self) -> tuple[MetricKey, ...]:
        """The objectives, or the default ones: size, the latency ratio on each target, the largest loss of a
        slice; with several runtime families the size in the first one, and the largest loss in any. With `sparsify`
        also the size when compressed: zeros gain nothing else.
        """
        sizes = ("size_bytes", "download_bytes") if "sparsify" in self.techniques else ("size_bytes",)
        ratios = tuple(f"latency_ratio@{target}" for target in self.targets)
        drop = WORST_ANYWHERE if self.several else f"drop/{WORST}"
        return tuple(parse_key(text) for text in self.search.objectives or (*sizes, *ratios, drop))

    @property
    def bounds(self) -> dict[str, float]:
        """The constraints, each in every runtime family."""
        return self._everywhere(self.constraints)

    def _everywhere(self, limits: Mapping[str, float]) -> dict[str, float]:
        """A limit without a target holds in every runtime family: of a further one under the name of its first target,
        unless that has a limit of its own."""
        found = dict(limits)
        for text, limit in limits.items():
            key = parse_key(text)
            if key.target is None and belongs_to_a_family(key):
                for family in self.families[1:]:
                    found.setdefault(str(at(key, family.judge)), limit)
        return found

    @property
    def weighs_download(self) -> bool:
        """Whether compressed sizes are found out: where one is asked for, or zeros could change it."""
        asked = (*self.search.objectives, *self.constraints, *self.budget)
        return "sparsify" in self.techniques or any(parse_key(text).name == "download_bytes" for text in asked)

    @property
    def limits(self) -> dict[str, float]:
        """What a trial has to meet to be recommended: constraints, budget, and a limit on the largest loss.

        Of two limits on one key the tighter counts. The largest loss is limited by the budget, or by `judge.limit`
        where the budget says nothing of it. A constraint on `drop/worst` may be wider than that: it then says what is
        not worth measuring any further.
        """
        least = self._everywhere({"drop/worst": self.drop_limit})
        least.update({text: limit for text, limit in self.budget.items() if text in least})
        return tightest(least, self.bounds, self._everywhere(self.budget))

    @property
    def drop_limit(self) -> float:
        """The largest drop that a slice without a limit of its own may have to pass: the budget's, or `judge.limit`."""
        return self.budget.get("drop/worst", self.judge.limit)

    @property
    def slice_limits(self) -> dict[str, float]:
        """Slice -> its own largest drop, where budget or constraints name one ("all": the drop over all samples).

        It takes the place of the general limit: a slice may be held to less, or be allowed more.
        """
        drops = {parse_key(text): limit for text, limit in self.limits.items()}
        own = {k: v for k, v in drops.items() if k.name == "drop" and k.slice != WORST and k.target is None}
        return {key.slice or "all": limit for key, limit in own.items()}

    @property
    def drop_shares(self) -> dict[str, float]:
        """Slice that is allowed more than the others -> the share of its drop that counts in `drop/worst`.

        With a general limit of 1 point and 2 points for a slice, half of what that slice loses: `drop/worst` is within
        its limit exactly when every slice is within its own.
        """
        general = self.drop_limit
        return {name: general / limit for name, limit in self.slice_limits.items() if limit > general}


def tightest(*tables: Mapping[str, float]) -> dict[str, float]:
    """All limits together; of several on one key the one that is hardest to meet."""
    found: dict[str, float] = {}
    for table in tables:
        for text, limit in table.items():
            harder = min if parse_key(text).smaller_is_better else max
            found[text] = harder(found.get(text, limit), limit)
    return found


def not_on_hardware(config: StudyConfig, targets: Sequence[Target]) -> Iterator[tuple[str, str]]:
    """Objectives and limits on what something costs on a target that is not hardware: (the key, what is wrong).

    Emulators invert rankings, so such a number may not decide anything. Judged metrics from there are welcome.
    """
    provenance = {target.name: target.provenance for target in targets}
    limited = {**config.constraints, **config.budget}
    for key in dict.fromkeys((*config.objective_keys, *(parse_key(text) for text in limited))):
        kind = provenance.get(key.target or "", "hardware")
        if key.name in COST_METRICS and kind != "hardware":
            said = "" if config.search.objectives or str(key) in limited else ", a default objective,"
            yield (
                str(key),
                f"{key}{said} is a cost on target {key.target!r}, which is {kind}: its times and bytes are not those "
                "of hardware and may not decide; name objectives, constraints and budget without it (accuracy and "
                "parity from there count)",
            )
