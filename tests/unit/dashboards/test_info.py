"""What the report says, as records: every claim against the trials it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from autotune.errors import DataError
from autotune.trial import Trial, Value
from dashboards.info.flips import flip_info
from dashboards.info.front import front_info, uniform_choice, winners_curse
from dashboards.info.headline import gaps, headline
from dashboards.info.layermap import decisions, layer_map
from dashboards.info.progress import progress, proposers
from dashboards.info.protocol import protocol
from dashboards.info.sensitivity import sensitivity
from dashboards.info.slicemap import slice_map
from dashboards.info.study import StudyView, read_study

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def view(study: Any) -> StudyView:
    return read_study(study.store())


def with_final_drop(store: Any, value: float, low: float, high: float) -> Any:
    """The same study with the worst drop of every finalist set."""
    drop = Value(value=value, low=low, high=high)
    for number, trial in list(store._trials.items()):
        if trial.final and number:
            store._trials[number] = trial.model_copy(update={"final": {**trial.final, "drop/worst": drop}})
    return store


def test_study_without_trials_is_refused(make_store: Make) -> None:
    with pytest.raises(DataError, match="no trial yet"):
        read_study(make_store([]))


def test_broken_configuration_is_named(make_store: Make, study: Any) -> None:
    with pytest.raises(DataError, match="configuration"):
        read_study(make_store(study.made, json.dumps({"nonsense": 1})))


def test_headline_recommends_a_confirmed_trial_within_the_limit(study: Any) -> None:
    view = read_study(with_final_drop(study.store(), 0.004, 0.001, 0.008))
    head = headline(view)
    assert head.tone == "good" and head.verified and head.trial is not None
    assert not head.gaps
    cheapest = min(view.finalists, key=lambda t: t.metrics["size_bytes"].value * t.final["latency_ratio@local"].value)
    assert head.trial.number == cheapest.number


def test_headline_is_not_certain_when_the_interval_crosses_the_limit(study: Any) -> None:
    head = headline(read_study(with_final_drop(study.store(), 0.006, 0.001, 0.013)))
    assert head.tone == "uncertain"


def test_headline_says_so_when_the_second_look_disappoints(study: Any) -> None:
    head = headline(read_study(with_final_drop(study.store(), 0.05, 0.03, 0.07)))
    assert head.tone == "bad" and head.trial is not None
    assert [gap.key for gap in head.gaps] == ["drop/worst"] and head.gaps[0].value == 0.05


def test_rejected_trials_still_give_the_nearest_miss(make_study: Make) -> None:
    view = read_study(make_study(hard=True).store())
    head = headline(view)
    assert head.tone == "bad" and head.trial is not None and head.trial.state == "rejected"
    assert head.trial.metrics["drop/worst"].value == min(t.metrics["drop/worst"].value for t in view.judged)
    assert {result.name for result in head.failing} >= {"effect=blur"}
    assert head.feasible == 0
    assert view.shown, "the maps must show something even if everything was rejected"


def test_only_failures_give_no_recommendation(make_store: Make, study: Any) -> None:
    failed = [trial for trial in study.made if trial.number == 0 or trial.state == "failed"]
    head = headline(read_study(make_store(failed)))
    assert head.tone == "plain" and head.trial is None and head.tried == len(failed) - 1


def test_original_wins_when_everything_else_costs_more(make_store: Make, study: Any) -> None:
    dear = Value.exact(1e9)
    worse = [
        trial.model_copy(update={"metrics": {**trial.metrics, "size_bytes": dear}, "final": {}})
        if trial.number
        else trial
        for trial in study.made
    ]
    head = headline(read_study(make_store(worse, study.config().model_dump_json())))
    assert head.tone == "bad" and not head.gaps


def test_limit_that_nobody_measured_is_reported(study: Any) -> None:
    store = study.store()
    store.config_json = study.config().model_copy(update={"constraints": {"energy_j@local": 1.0}}).model_dump_json()
    assert headline(read_study(store)).unmeasured == ("energy_j@local",)


def test_gaps_of_a_larger_is_better_metric(study: Any) -> None:
    store = study.store()
    store.config_json = study.config().model_copy(update={"constraints": {"accuracy/all": 0.99}}).model_dump_json()
    view = read_study(store)
    broken = {gap.key for gap in gaps(view, view.trials[1])}
    assert "accuracy/all" in broken


def test_front_has_no_dominated_trial_and_every_trial_a_role(view: StudyView) -> None:
    info = front_info(view, "local", None)
    assert {p.trial for p in info.points} == {t.number for t in view.trials}
    front = [p for p in info.points if p.role in ("front", "finalist", "original")]
    for point in info.points:
        if point.role == "dominated" and point.ratio and point.drop:
            assert any(
                other.size <= point.size * 1.005
                and other.ratio.value <= point.ratio.value * 1.01
                and other.drop.value <= point.drop.value + 5e-4
                for other in front
                if other.ratio and other.drop
            )
    assert {p.role for p in info.points} >= {"original", "finalist", "rejected", "failed"}
    assert {p.uniform for p in info.points if p.uniform} >= {"int8-static", "w4-b32", "float16"}


def test_uniform_recipe_is_named_by_its_proposer_even_with_fallbacks() -> None:
    mixed = {"quantize": {"a": "int8-static", "b": "w8-load", "c": "w8-load"}}
    trial = Trial(number=1, recipe=mixed, state="complete", proposer="uniform int8-static")
    assert uniform_choice(trial, 3) == "int8-static"
    assert uniform_choice(trial.model_copy(update={"proposer": "surrogate"}), 3) == ""
    alike = Trial(number=2, recipe={"quantize": {"a": "float16"}}, state="complete", proposer="surrogate")
    assert uniform_choice(alike, 1) == "float16" and uniform_choice(alike, 3) == ""


def test_winners_curse_is_the_difference_of_both_looks(view: StudyView) -> None:
    rows = winners_curse(view)
    assert len(rows) == 2 * len(view.finalists)
    for row in rows:
        trial = next(t for t in view.trials if t.number == row.trial)
        assert row.change == pytest.approx(trial.final[row.key].value - trial.metrics[row.key].value)


def test_layer_map_is_in_order_of_execution_with_shares_that_add_up(view: StudyView) -> None:
    info = layer_map(view)
    assert [row.name for row in info.rows][:2] == ["backbone.stem.conv", "backbone.block1.depthwise"]
    assert sum(row.parameter_share or 0 for row in info.rows) == pytest.approx(1)
    assert sum(row.time_share or 0 for row in info.rows) == pytest.approx(1)
    for column, number in enumerate(info.trials):
        chosen = decisions(view.trials[number])
        assert all(row.choices[column] == chosen.get(row.name, "none") for row in info.rows)
    assert [(number, outcome.layer) for number, outcome in info.mismatches] == [(4, "neck.conv_out")]


def test_layers_come_from_the_trials_when_no_inspection_was_saved(make_store: Make, study: Any) -> None:
    info = layer_map(read_study(make_store(study.made)))
    assert len(info.rows) == 25 and all(row.parameter_share is None for row in info.rows)


def test_slice_map_starts_with_all_and_the_recommended_trial(view: StudyView) -> None:
    chosen = view.finalists[-1].number
    info = slice_map(view, chosen)
    assert info.slices[0] == "all" and info.columns[0].trial == chosen
    drops = [r.drop.value for r in info.columns[0].results[1:] if r]
    assert drops == sorted(drops, reverse=True)
    assert {c.dataset for c in info.columns if c.finalist} == {"heldout"}
    assert {c.label.partition(" ")[2] for c in info.columns if not c.finalist} >= {"int8-static", "float16"}


def test_flips_are_sorted_and_carry_label_and_picture(view: StudyView, study: Any) -> None:
    number = view.finalists[0].number
    info = flip_info(view, study.store(), number)
    assert info is not None and info.dataset == "heldout"
    outcomes = next(e for e in study.store().trial(number).evaluations if e.dataset == "heldout").outcomes
    assert info.total_worse == sum(o.candidate_score < o.original_score for o in outcomes)
    assert info.total_better == sum(o.candidate_score > o.original_score for o in outcomes)
    assert all(flip.change < 0 for flip in info.worse) and all(flip.change > 0 for flip in info.better)
    assert all(flip.label == flip.original for flip in info.worse)
    assert any(isinstance(flip.display, bytes) for flip in info.worse)


def test_unreadable_sample_is_named(view: StudyView, study: Any) -> None:
    store = study.store()
    number = view.finalists[0].number
    for index in range(80):
        store._meta[f"sample/sample-{index:03d}"] = {"png": "not base64!"}
    with pytest.raises(DataError, match="sample-"):
        flip_info(view, store, number)


def test_progress_best_never_grows_and_time_adds_up(view: StudyView) -> None:
    info = progress(view)
    best = [step.best for step in info.steps if step.best is not None]
    assert best and best == sorted(best, reverse=True)
    assert sum(stage.share for stage in info.stages) == pytest.approx(1)
    assert info.seconds == pytest.approx(sum(sum(t.durations.values()) for t in view.trials))
    assert proposers(info.steps)[0] == "uniform"
    assert {step.standing for step in info.steps} == {"within", "beyond", "rejected", "failed"}


def test_protocol_lists_what_failed_and_warns_of_other_provenance(make_store: Make, study: Any) -> None:
    info = protocol(read_study(study.store()))
    assert {row.kind for row in info.problems} == {"limit", "timeout"}
    assert info.flagged == 1 and not info.warnings and len(info.devices) == 1
    odd = []
    for trial in study.made[:3]:
        changed = tuple(m.model_copy(update={"provenance": "emulated"}) for m in trial.measurements)
        odd.append(trial.model_copy(update={"measurements": changed}))
    warnings = protocol(read_study(make_store([*odd, *study.made[3:]]))).warnings
    assert any("emulated" in warning for warning in warnings)


def test_sensitivity_finds_the_tender_layer_and_claims_nothing_from_noise(make_study: Make) -> None:
    study = make_study(trials=0)
    names = [row.layer for row in study.made[0].layers]
    for index in range(48):
        mix = ("none", "w8-load", "int8-dynamic", "int8-static") if index % 2 else ("none", "w4-b32", "float16")
        study.add({name: str(study.random.choice(mix)) for name in names}, "random")
    found = sensitivity(read_study(study.store()))
    assert found.explained > 0.5
    assert "backbone.stem.conv" in [culprit.layer for culprit in found.culprits[:3]]
    store = study.store()
    for number, trial in store._trials.items():
        noise = Value.exact(float(study.random.random()) * 0.1)
        store._trials[number] = trial.model_copy(update={"metrics": {**trial.metrics, "drop/worst": noise}})
    assert sensitivity(read_study(store)).culprits == ()
