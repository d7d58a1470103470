"""What each finalist does to each layer, by depth, and where the runtime did something else than asked."""

from __future__ import annotations

from typing import NamedTuple

from autotune.recipe import NONE
from autotune.trial import LayerOutcome, Trial
from dashboards.info.study import StudyView


class LayerRow(NamedTuple):
    """One layer. `choices` run parallel to the map's `trials`; "none" is the original precision.

    `parameter_share` is of all searchable parameters, `time_share` of the time of all searchable layers in
    the original, both in 0..1; None where unknown. `mismatched` says for each trial whether something else
    ran.
    """

    name: str
    op: str
    parameters: int | None
    parameter_share: float | None
    time_share: float | None
    choices: tuple[str, ...]
    ran: tuple[str, ...]
    mismatched: tuple[bool, ...]


class LayerMap(NamedTuple):
    """Rows in order of execution."""

    trials: tuple[int, ...]
    rows: tuple[LayerRow, ...]
    choices: tuple[str, ...]  # every choice that occurs, in the order of the palette's legend
    mismatches: tuple[tuple[int, LayerOutcome], ...]  # over all trials of the study
    skipped: tuple[tuple[str, str], ...]


def layer_map(view: StudyView) -> LayerMap:
    """The map of the trials that the view shows."""
    total = sum(layer.parameters or 0 for layer in view.layers)
    times = {o.layer: o.seconds for o in (view.baseline.layers if view.baseline else ())}
    time_total = sum(times.values())
    ran = [{outcome.layer: outcome for outcome in trial.layers} for trial in view.shown]
    asked = [decisions(trial) for trial in view.shown]
    rows = []
    for layer in view.layers:
        outcomes = [table.get(layer.name) for table in ran]
        seconds = times.get(layer.name)
        rows.append(
            LayerRow(
                name=layer.name,
                op=layer.op,
                parameters=layer.parameters,
                parameter_share=layer.parameters / total if layer.parameters is not None and total else None,
                time_share=seconds / time_total if seconds is not None and time_total else None,
                choices=tuple(table.get(layer.name, NONE) for table in asked),
                ran=tuple(outcome.ran if outcome else "" for outcome in outcomes),
                mismatched=tuple(outcome is not None and outcome.honoured is False for outcome in outcomes),
            )
        )
    present = {choice for row in rows for choice in row.choices}
    mismatches = tuple((t.number, o) for t in view.trials for o in t.layers if o.honoured is False)
    return LayerMap(
        trials=tuple(trial.number for trial in view.shown),
        rows=tuple(rows),
        choices=tuple(sorted(present)),
        mismatches=mismatches,
        skipped=view.skipped,
    )


def decisions(trial: Trial) -> dict[str, str]:
    """layer -> choice; a layer that several techniques touch shows all of them, joined by " + "."""
    merged: dict[str, str] = {}
    for table in trial.recipe.values():
        for layer, choice in table.items():
            merged[layer] = f"{merged[layer]} + {choice}" if layer in merged else choice
    return merged
