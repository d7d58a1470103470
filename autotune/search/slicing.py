"""How the data of a study are cut: declared, automatic, perturbed and discovered slices, alike in search and held-out
data, and alike when a study is continued."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotune import perturbations, slices
from autotune.config import StudyConfig
from autotune.errors import DataError
from autotune.evaluation import Evaluation
from autotune.judge.predictions import Predictions
from autotune.judge.slicing import asked_for, automatic_columns, fit_automatic
from autotune.slices.automatic import Bands
from autotune.slices.discovered import describe
from autotune.store import Store
from autotune.workload import Workload

DISCOVERED = "discovered"  # in the store: what was found, and on which trial it was confirmed
_MODELS = 64  # compressed models whose answers discovery looks at, at most: spread over the study


@dataclass
class Slicing:
    """The slices of one study. `workload` is the user's; `made` has the perturbed copies that its slices name."""

    config: StudyConfig
    workload: Workload
    store: Store
    declared: tuple[slices.Declaration, ...] = field(init=False)
    made: Workload = field(init=False)
    search: slices.Assigned = field(init=False, default_factory=slices.Assigned)
    heldout_sizes: dict[str, int] = field(init=False, default_factory=dict)  # without those by the original's answers
    notes: list[str] = field(init=False, default_factory=list)
    _bands: tuple[Bands, ...] = ()
    _columns: Mapping[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `DataError` and `UsageError` for slices that cannot be, in either data set, before anything is run."""
        self.declared = slices.declared(self.workload.slices, self.config.slices)
        heldout = perturbations.perturbed(self.workload.heldout, self.declared, self.workload)
        search = perturbations.perturbed(self.workload.search, self.declared, self.workload)
        self.made = dataclasses.replace(self.workload, search=search, heldout=heldout)
        early = [each for each in self.declared if not self._varies(each)]
        floor = self.config.judge.floor
        self.search = slices.assign(search, early, floor=floor)
        there = slices.assign(heldout, slices.fixed(search, early), expected=self.search, floor=floor)
        self.heldout_sizes = {name: int(mask.sum()) for name, mask in there.items()}

    def assign_search(self, original: Predictions, digest: str) -> slices.Assigned:
        """Slices of the search data; bands are fitted once and kept under "bands/DIGEST OF THE DATA"."""
        data = self.made.search
        kinds = asked_for(self.declared, self.config.judge.automatic)
        key = f"bands/{digest[:16]}/{'+'.join(kinds)}"
        kept = self.store.meta(key)
        if kept is None:
            self._bands = fit_automatic(data, kinds, original)
            self.store.set_meta(key, [bands.model_dump(mode="json") for bands in self._bands])
        else:
            self._bands = tuple(Bands.model_validate(each) for each in kept)
        self._columns = automatic_columns(data, self._bands, original)
        wanted = [*self.declared, *self._automatic()]
        self.search = slices.assign(data, wanted, columns=self._columns, floor=self.config.judge.floor)
        self.notes = list(self.search.notes)
        return self.search

    def assign_heldout(self, original: Predictions) -> tuple[slices.Assigned, frozenset[str]]:
        """The same slices of the held-out data and those that were discovered; with the names of the latter."""
        data = self.made.heldout
        columns = automatic_columns(data, self._bands, original)
        fixed = slices.fixed(self.made.search, self.declared, columns=self._columns)
        found = []
        for each in self.discovered():
            try:
                slices.assign(data, [each], columns=columns, floor=self.config.judge.floor)
            except DataError as error:
                self.notes.append(f"{each.name} cannot be confirmed: {error}")
            else:
                found.append(each)
        expected = [name for name, each in self.search.declarations.items() if not self._varies(each)]
        wanted = [*fixed, *self._automatic(), *found]
        floor = self.config.judge.floor
        cut = slices.assign(data, wanted, expected=expected, columns=columns, floor=floor)
        return cut, frozenset(name for name, kind in cut.kinds.items() if kind == "discovered")

    def discover(self) -> list[slices.Declaration]:
        """Look for what the samples share on which the compressed models of the study disagree with the original.

        Done once, on the search data; what was found stays, because held-out data confirm it or not.
        """
        most = self.config.judge.discover
        if not most or self.store.meta(DISCOVERED) is not None:
            return self.discovered()
        share = self._disagreement()
        if share is None:
            return []
        found = describe(self.made.search, share, most=most, columns=self._columns, known=self.search)
        kept = [
            {
                "name": str(each.declaration.name),
                "text": each.declaration.text,
                "n": each.n,
                "share": each.share,
                "share_else": each.share_else,
                "p_value": each.p_value,
                "confirmed": [],
            }
            for each in found
        ]
        self.store.set_meta(DISCOVERED, kept)
        return self.discovered()

    def discovered(self) -> list[slices.Declaration]:
        """What an earlier `discover` found."""
        kept = self.store.meta(DISCOVERED) or []
        return [slices.Declaration(each["text"], each["name"], "discovered") for each in kept]

    def confirm(self, number: int, evaluation: Evaluation) -> None:
        """Remember which discovered slices a trial's held-out judgement confirms."""
        confirmed = {r.name for r in evaluation.slices if r.kind == "discovered" and not r.hypothesis}
        kept = self.store.meta(DISCOVERED) or []
        if any(each["name"] in confirmed and number not in each["confirmed"] for each in kept):
            for each in kept:
                if each["name"] in confirmed:
                    each["confirmed"] = sorted({*each["confirmed"], number})
            self.store.set_meta(DISCOVERED, kept)

    def _automatic(self) -> list[slices.Declaration]:
        return [slices.Declaration(bands.kind) for bands in self._bands if bands.kind in self.config.judge.automatic]

    def _varies(self, declaration: slices.Declaration) -> bool:
        """Whether which samples it covers depends on the original's answers, so that other data may have none."""
        own = {column for sample in self.workload.search.samples for column in sample.metadata}
        return bool(slices.columns_of(declaration) & ({*slices.AUTOMATIC} - own))

    def _disagreement(self) -> np.ndarray | None:
        """`[n]`: the share of compressed models that answer differently from the original; None with none of them."""
        done = [t.number for t in self.store.trials(details=False) if t.state == "complete" and t.number]
        step = max(1, -(-len(done) // _MODELS))
        n = len(self.made.search)
        total, models = np.zeros(n), 0
        for number in done[::step]:
            for evaluation in self.store.trial(number).evaluations:
                if evaluation.dataset == self.made.search.name and len(evaluation.outcomes) == n:
                    total += [outcome.candidate != outcome.original for outcome in evaluation.outcomes]
                    models += 1
                    break
        return total / models if models else None
