"""The layer map's texts are cut only where they must be, and what did not run as asked is said once."""

from __future__ import annotations

from autotune.trial import LayerOutcome
from dashboards.figures.layermap import layer_figure, layer_width
from dashboards.info.layermap import LayerMap, LayerRow
from dashboards.page.sections import layer_section

LONG = "cut-25% + int8-dynamic"


def made(trials: int, mismatches: tuple[tuple[int, LayerOutcome], ...] = ()) -> LayerMap:
    row = LayerRow("layer", "MatMul", 10, 1.0, 1.0, (LONG,) * trials, ("",) * trials, (False,) * trials)
    return LayerMap(tuple(range(1, trials + 1)), (row,), (LONG,), mismatches, ())


def test_a_cell_is_cut_only_where_its_column_is_too_narrow() -> None:
    assert list(layer_figure(made(3), 1).data[0].text[0]) == [LONG] * 3
    (cell, *_) = layer_figure(made(12), 1).data[0].text[0]
    assert "…" in cell and cell.endswith("dynamic") and len(cell) > 10
    assert layer_width(made(3)) < 1060 < layer_width(made(12))


def test_the_same_departure_in_many_trials_is_one_row() -> None:
    def outcome(asked: str, ran: str) -> LayerOutcome:
        return LayerOutcome(layer="layer", asked=asked, ran=ran, honoured=False, note="why", seconds=0.0)

    found = (
        (1, outcome("w8", "none")),
        (2, outcome("w4", "none")),
        (3, outcome("w8", "none")),
        (4, outcome("w8", "x")),
    )
    text = str(layer_section(made(4, found), 1, verified=True)[0])
    body = text[text.index("Asked for and not what ran") :]
    assert body.count("<code>layer</code>") == 2
    assert "w8, w4" in body and "#1, #2, #3<" in body and "#4<" in body
