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
from autotune.slices.automatic import WORDS, Automatic, Bands, wanted
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
        """Every slice can be cut from every data set, with the bands of the first, and has the limits that are asked
        for, as far as that is known before the original answers: which samples are hard its confidence tells. Raises
        `DataError` and `UsageError`."""
        kinds = asked_for(self.declared, self.table.automatic)
        bands = fit_automatic(datasets[0], kinds, None)
        unknown = [kind for kind in wanted(datasets[0], kinds) if kind != "size"]
        metrics = [metric.name for metric in self.metrics] if len(self.metrics) > 1 else []
        fixed: tuple[Declaration, ...] | None = None
        for given in datasets:
            data = perturbations.perturbed(given, self.declared, self.workload)
            if fixed is None:
                fixed = slices.fixed(data, self.declared, columns=_columns(given, bands, unknown))
            names = self._names(given, data, fixed, bands, unknown)
            for name in names:
                if name.partition(":")[0] in metrics:
                    raise DataError(
                        f"{self.workload.name}: the slice {name!r} reads like one of a metric; give it another name"
                    )
            self.check_limits(names, given.name)

    def check_limits(self, names: Sequence[str], data: str) -> None:
        """Raises `UsageError` for a limit on none of these slices of the data set `data`, under any metric."""
        known = list(dict.fromkeys([*names, *(f"{m.name}:{name}" for m in self.metrics[1:] for name in names)]))
        unknown = next((name for name in self.limits if name not in known), None)
        if unknown is not None:
            raise UsageError(
                f"limit on slice {unknown!r}: there is no such slice of the {data} data; {did_you_mean(unknown, known)}"
            )

    def by_name(self, masks: slices.Assigned, declared: Sequence[Declaration]) -> Iterator[str]:
        """The slices that somebody wants to know of: those given for this judgement alone, and those that are declared
        one by one (`font=serif`, not `font`). `declared` as they were cut."""
        for name, origin in masks.origins.items():
            if origin in declared and (self.own or not slices.parse(origin.text).depth):
                yield name

    def _names(
        self,
        given: Dataset,
        data: Dataset,
        declared: Sequence[Declaration],
        bands: Sequence[Bands],
        unknown: Sequence[Automatic],
    ) -> list[str]:
        """What the slices of one data set can be called, `data` with the perturbed copies. Those that do not depend on
        the original's answers, on columns that are still `unknown`, are cut."""
        later = [each for each in declared if slices.columns_of(each) & {*unknown}]
        now = [each for each in declared if each not in later]
        columns = automatic_columns(given, bands, None)
        automatic = [Declaration(kind) for kind in self.table.automatic if kind in columns]
        known = slices.assign(data, [*now, *automatic], columns=columns, floor=self.table.floor)
        later += [Declaration(kind) for kind in self.table.automatic if kind in unknown]
        return [*known, *slices.possible_names(data, later, columns=_columns(given, bands, unknown))]


def _columns(given: Dataset, bands: Sequence[Bands], unknown: Sequence[Automatic]) -> dict[str, Sequence[object]]:
    """The computed columns of a data set; the `unknown` ones hold every word that they may have, in turn."""
    columns: dict[str, Sequence[object]] = {**automatic_columns(given, bands, None)}
    for kind in unknown:
        columns[kind] = [WORDS[kind][place % len(WORDS[kind])] for place in range(len(given))]
    return columns
