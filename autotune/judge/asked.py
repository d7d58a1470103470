"""What is asked of a judgement, looked at before any model runs: a name that does not exist must not cost hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autotune import perturbations, slices
from autotune.config import JudgeTable
from autotune.errors import DataError, UsageError, did_you_mean
from autotune.judge.metrics import ResolvedMetric, resolve_metrics
from autotune.judge.slicing import asked_for, automatic_columns, fit_automatic
from autotune.slices import Declaration
from autotune.slices.automatic import WORDS, Bands, wanted
from autotune.workload import Dataset, Workload


@dataclass(frozen=True)
class Asked:
    """Slices, limits and metrics of one judgement. `own`: the declarations were given for it alone, and are not the
    workload's."""

    workload: Workload
    table: JudgeTable
    limits: Mapping[str, float]
    declared: tuple[Declaration, ...]
    metrics: tuple[ResolvedMetric, ...]
    own: bool

    @classmethod
    def of(
        cls, workload: Workload, given: slices.Slices | None, table: JudgeTable, limits: Mapping[str, float] | None
    ) -> Asked:
        """The workload's slices, or those that are `given` in their place, which may call the workload's functions.

        Raises `UsageError`.
        """
        declared = slices.declared(workload.slices)
        if given is not None:
            declared = slices.declared(given, functions=slices.functions_of(declared))
        return cls(
            workload, table, dict(limits or {}), declared, resolve_metrics(workload.metric), own=given is not None
        )

    def check(self, datasets: Sequence[Dataset]) -> None:
        """Every slice can be cut and every limit is of one, as far as that is known before the original answers: which
        samples are hard its confidence tells. Raises `DataError` and `UsageError`."""
        bands = fit_automatic(datasets[0], asked_for(self.declared, self.table.automatic), None)
        known = [name for data in datasets for name in self._names(data, bands)]
        metrics = [metric.name for metric in self.metrics] if len(self.metrics) > 1 else []
        for name in known:
            if name.partition(":")[0] in metrics:
                raise DataError(
                    f"{self.workload.name}: the slice {name!r} reads like one of a metric; give it another name"
                )
        self.check_limits(known)

    def check_limits(self, names: Sequence[str]) -> None:
        """Raises `UsageError` for a limit on none of these slices, under any metric."""
        known = list(dict.fromkeys([*names, *(f"{m.name}:{name}" for m in self.metrics[1:] for name in names)]))
        unknown = next((name for name in self.limits if name not in known), None)
        if unknown is not None:
            raise UsageError(f"limit on slice {unknown!r}: there is no such slice; {did_you_mean(unknown, known)}")

    def by_name(self, masks: slices.Assigned, declared: Sequence[Declaration]) -> Iterator[str]:
        """The slices that somebody wants to know of: those given for this judgement alone, and those that are declared
        one by one (`font=serif`, not `font`). `declared` as they were cut."""
        for name, origin in masks.origins.items():
            if origin in declared and (self.own or not slices.parse(origin.text).depth):
                yield name

    def _names(self, given: Dataset, bands: Sequence[Bands]) -> list[str]:
        """What the slices of one data set can be called. Those that do not depend on the original's answers are cut."""
        data = perturbations.perturbed(given, self.declared, self.workload)
        columns: dict[str, Sequence[object]] = {**automatic_columns(given, bands, None)}
        unknown = [kind for kind in wanted(given, asked_for(self.declared, self.table.automatic)) if kind != "size"]
        later = [each for each in self.declared if slices.columns_of(each) & {*unknown}]
        now = [each for each in self.declared if each not in later]
        automatic = [Declaration(kind) for kind in self.table.automatic if kind in columns]
        known = slices.assign(data, [*now, *automatic], columns=columns, floor=self.table.floor)
        for kind in unknown:  # every word that it may have, in turn
            columns[kind] = [WORDS[kind][place % len(WORDS[kind])] for place in range(len(given))]
            later += [Declaration(kind)] if kind in self.table.automatic else []
        return [*known, *slices.possible_names(data, later, columns=columns)]
