"""What a search found, with the verbs that a person wants next: look, report, export."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path

from autotune.api.choice import Choice, choose
from autotune.api.several import common_text, own_best
from autotune.api.tables import as_text, front_html, front_table, with_recommended
from autotune.api.watch import ProgressView
from autotune.config import StudyConfig
from autotune.errors import Infeasible, UsageError
from autotune.pareto import Served
from autotune.search.agreement import doubts
from autotune.trial import Trial
from autotune.workload import Workload


@dataclass(frozen=True)
class Result:
    """What a search found. Everything is read from the store at `store`; `front` is ordered by the first
    objective. `targets` says for each of several targets how it is served by its own best and by `best`, the one
    model for all of them.
    """

    config: StudyConfig
    trials: list[Trial]
    front: list[Trial]
    best: Trial | None
    store: str
    folder: Path
    reason: str = ""  # why there is no best
    doubt: str = ""  # what stands against the best: its answers differ between targets
    targets: tuple[Served, ...] = ()
    guarded: tuple[str, ...] = ()  # what is not offered on a target, because a uniform recipe is as fast there
    _workload: Workload | None = field(default=None, repr=False)
    _store: str | Path | None = field(default=None, repr=False)

    @classmethod
    def load(cls, config: StudyConfig, workload: Workload, store: str | Path | None) -> Result:
        """The result of what is recorded by now. Raises `DataError` when nothing is."""
        from autotune.store import open_store

        with open_store(store, config.name, must_exist=True) as opened:
            trials = opened.trials()
            place, folder = opened.place, opened.folder
            choice = choose(trials, config)
            doubt = doubts(opened, choice.recommended)
        return cls(
            config=config,
            trials=trials,
            front=choice.front,
            best=choice.recommended,
            store=place,
            folder=folder,
            reason=choice.reason,
            doubt=doubt,
            targets=choice.targets,
            guarded=choice.guarded,
            _workload=workload,
            _store=store,
        )

    @property
    def fronts(self) -> dict[str, list[Trial]]:
        """Target -> its own front, in size, its own costs and what is judged."""
        if not self.targets:
            return dict.fromkeys(self.config.targets[:1], self.front)
        return {served.target: list(served.front) for served in self.targets}

    def best_for(self, target: str) -> Trial:
        """The best trial for one target alone. Raises `Infeasible`, and `UsageError` for an unknown target."""
        if not self.targets and target in self.config.targets:
            if self.best is None:
                raise Infeasible(self.reason or "no trial can be recommended")
            return self.best
        return own_best(self._choice().target(target))

    def prices(self) -> str:
        """What the one model for all targets costs each of them; "" with a single target."""
        return common_text(self._choice(), self.config)

    def _choice(self) -> Choice:
        return Choice(self.front, self.best, self.reason, targets=self.targets, guarded=self.guarded)

    def __getitem__(self, number: int) -> Trial:
        """The trial of that number. Raises `UsageError`."""
        for trial in self.trials:
            if trial.number == number:
                return trial
        raise UsageError(f"there is no trial {number}; known: 0 to {max((t.number for t in self.trials), default=0)}")

    def table(self, *, columns: int = 110) -> str:
        """The front in all objectives as text, at most `columns` wide; `fronts` and `prices` are those of targets."""
        rows = with_recommended(self.front, self.best)
        return as_text(front_table(rows, self.trials, self.config, self.best, columns=columns), columns)

    def _repr_html_(self) -> str:
        """What a notebook shows: the front as an HTML table."""
        prices = "".join(f"<p>{html.escape(line)}</p>" for line in self.prices().splitlines())
        return front_html(self.front, self.trials, self.config, self.best) + prices

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML report; by default beside the store. Returns its path."""
        from autotune.report import default_path, write_report
        from autotune.store import open_store

        with open_store(self._store, self.config.name, must_exist=True) as opened:
            file = Path(path) if path is not None else default_path(opened)
            write_report(opened, file)
        return file

    def export(self, folder: str | Path, trial: int | Trial | None = None) -> Path:
        """Measure a trial (default: the best) again, judge it on held-out data and write its bundle to
        `folder`. The best for one of several targets is `best_for(target)`.

        Raises `Infeasible` when there is no best, `UsageError` for a folder that holds something else.
        """
        from autotune.bundle import check_destination, export_bundle
        from autotune.search.study import Study

        chosen = self.best if trial is None else trial
        if chosen is None:
            raise Infeasible(self.reason or "no trial can be recommended; export one by its number")
        number = chosen if isinstance(chosen, int) else chosen.number
        destination = Path(folder)
        check_destination(destination)
        workload = self._the_workload()
        with Study.open(self.config, workload, store=self._store) as study, ProgressView() as view:
            verified = study.verify(number, view.update)
            built = study.engines(verified, view.update)
            return export_bundle(
                study.store, verified, destination, workload=workload, study=self.config.name, engines=built
            )

    def _the_workload(self) -> Workload:
        if self._workload is None:
            raise UsageError("this result has no workload; call optimize() again, it goes on from the store")
        return self._workload
