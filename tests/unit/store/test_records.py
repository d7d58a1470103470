"""What goes into a store comes out the same, once."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa

from autotune.errors import DataError, UsageError
from autotune.recipe import Recipe
from autotune.store import Store, open_store
from autotune.store.records import decode_measurement, encode
from autotune.trial import Value
from hwprofiles.errors import Failure
from hwprofiles.scenario import FINAL, SEARCH, Scenario

GOLDEN = Path(__file__).parents[2] / "golden" / "measurement_1.json"

TIMEOUT = Failure(kind="timeout", stage="latency", message="no answer after 120 s", traceback="Traceback ...")


def finish(store: Store, records: ModuleType, index: int, state: str = "complete") -> int:
    number = store.start_trial(records.recipe(index), "uniform")
    artifact = store.save_artifact(records.model_bytes(index), "ort-cpu")
    store.record_build(number, artifact, records.layers())
    store.add_measurement(records.measurement(artifact.digest))
    store.add_evaluation(records.evaluation(artifact.digest))
    store.finish_trial(number, state, metrics=records.metrics(1000 + index), durations={"build": 0.5})
    return number


def test_a_trial_comes_back_whole_after_reopening(store: Store, place: Path, records: ModuleType) -> None:
    number = finish(store, records, 5)
    store.set_final(number, {"drop/worst": Value(value=0.006, low=0.0, high=0.012)})
    store.close()
    with open_store(place, "digits", must_exist=True) as again:
        trial = again.trial(number)
        assert trial == again.trials(outcomes=True)[0]
        assert trial.recipe == records.recipe(5).to_dict()
        assert again.artifact_bytes(trial.artifact.digest) == records.model_bytes(5)
        assert again.verify_artifact(trial.artifact.digest) == again.artifact_path(trial.artifact.digest)
    assert (trial.state, trial.proposer, trial.durations) == ("complete", "uniform", {"build": 0.5})
    assert trial.artifact.size_bytes == len(records.model_bytes(5))
    assert trial.metrics == records.metrics(1005)
    assert trial.final == {"drop/worst": Value(value=0.006, low=0.0, high=0.012)}
    assert trial.layers == records.layers()
    assert trial.measurements == (records.measurement(trial.artifact.digest),)
    assert trial.evaluations == (records.evaluation(trial.artifact.digest),)
    assert trial.started_at <= trial.finished_at


def test_failed_and_rejected_trials_keep_their_cause(store: Store, records: ModuleType) -> None:
    failed = store.start_trial(records.recipe(1), "uniform")
    store.finish_trial(failed, "failed", failure=TIMEOUT)
    rejected = store.start_trial(records.recipe(2), "uniform")
    store.finish_trial(rejected, "rejected", reason="drop/worst 0.4 > 0.01", metrics=records.metrics(9))
    assert store.trial(failed).failure == TIMEOUT
    assert store.trial(rejected).reason == "drop/worst 0.4 > 0.01"
    store.finish_trial(failed, "complete", metrics=records.metrics(1))  # the cause of a failure may go away
    assert store.trial(failed).failure is None


def test_numbers(store: Store, records: ModuleType) -> None:
    assert store.start_trial(records.recipe(3), "uniform") == 1
    assert store.start_trial(Recipe(), "baseline") == 0
    assert store.start_trial(records.recipe(4), "surrogate") == 2
    assert store.start_trial(records.recipe(3), "surrogate") == 1, "a recipe has one trial"
    assert [trial.number for trial in store.trials()] == [0, 1, 2]
    assert store.trial(1).proposer == "uniform"
    assert store.find_trial(records.recipe(4)).number == 2
    assert store.find_trial(records.recipe(9)) is None
    with pytest.raises(UsageError, match="no trial 7; its trials are numbered up to 2"):
        store.trial(7)


def test_finished_trials_stay_as_they_are(store: Store, records: ModuleType) -> None:
    number = finish(store, records, 1)
    with pytest.raises(DataError, match="complete already"):
        store.finish_trial(number, "failed", failure=TIMEOUT)
    other = store.save_artifact(b"another build", "ort-cpu")
    with pytest.raises(DataError, match="was measured with artifact"):
        store.record_build(number, other, ())
    running = store.start_trial(records.recipe(2), "uniform")
    with pytest.raises(DataError, match="finalists are complete"):
        store.set_final(running, {})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_is_refused_and_changes_nothing(
    store: Store, records: ModuleType, bad: float
) -> None:
    number = store.start_trial(records.recipe(1), "uniform")
    with pytest.raises(DataError, match="drop/worst"):
        store.finish_trial(number, "complete", metrics={"drop/worst": Value(value=bad, low=0, high=1)})
    assert store.trial(number).state == "running"
    store.finish_trial(number, "complete", metrics={"drop/worst": Value(value=0.1, low=-math.inf, high=math.inf)})
    assert store.trial(number).metrics["drop/worst"].high == math.inf


def test_nothing_is_measured_twice(store: Store, records: ModuleType) -> None:
    model = "a" * 64
    key = records.FINGERPRINT.key
    first = records.measurement(model, seconds=1.0)
    assert store.find_measurement(model, records.BASELINE, "local", key, SEARCH) is None
    assert store.add_measurement(first) == first
    assert store.add_measurement(records.measurement(model, seconds=2.0)) == first, "the first one stays"
    assert store.find_measurement(model, records.BASELINE, "local", key, SEARCH) == first
    for other in (
        ("c" * 64, records.BASELINE, "local", key, SEARCH),
        (model, None, "local", key, SEARCH),
        (model, records.BASELINE, "pi", key, SEARCH),
        (model, records.BASELINE, "local", "another machine", SEARCH),
        (model, records.BASELINE, "local", key, FINAL),
    ):
        assert store.find_measurement(*other) is None, "another question"


def test_failed_measurements_are_all_kept_and_never_an_answer(store: Store, records: ModuleType) -> None:
    number = store.start_trial(records.recipe(1), "uniform")
    artifact = store.save_artifact(b"model", "ort-cpu")
    store.record_build(number, artifact, ())
    store.add_measurement(records.measurement(artifact.digest, failure=TIMEOUT))
    store.add_measurement(records.measurement(artifact.digest, failure=TIMEOUT))
    key = records.FINGERPRINT.key
    assert store.find_measurement(artifact.digest, records.BASELINE, "local", key, SEARCH) is None
    store.add_measurement(records.measurement(artifact.digest))
    assert [m.failure for m in store.trial(number).measurements] == [TIMEOUT, TIMEOUT, None]


def test_nothing_is_judged_twice(store: Store, records: ModuleType) -> None:
    first = records.evaluation("a" * 64, correct=28)
    assert store.add_evaluation(first) == first
    assert store.add_evaluation(records.evaluation("a" * 64, correct=3)) == first
    assert store.find_evaluation("a" * 64, records.DATA, "local") == first
    assert store.find_evaluation("a" * 64, "e" * 64, "local") is None
    assert store.find_evaluation("a" * 64, records.DATA, "local", fingerprint_key="other cpu") is None


def test_uses_of_heldout_data_are_only_ever_added(store: Store, place: Path, records: ModuleType) -> None:
    assert store.heldout_uses() == []
    for artifact in ("a" * 64, "b" * 64, "a" * 64):
        store.use_heldout(artifact, records.DATA, {"limit": 0.01}, purpose="judge")
    with open_store(place, "other") as other:
        assert other.heldout_uses() == [], "uses belong to a study"
    with open_store(place, "digits", must_exist=True) as again:
        found = again.heldout_uses()
    assert [use.artifact[0] for use in found] == ["a", "b", "a"]
    assert found[0].rules == {"limit": 0.01} and found[0].at <= found[2].at
    assert not [name for name in dir(Store) if "heldout" in name and name not in ("use_heldout", "heldout_uses")]


def test_a_judgement_by_any_rules_is_the_first_one(store: Store, records: ModuleType) -> None:
    first = records.evaluation("a" * 64, correct=28)
    store.add_evaluation(first, fingerprint_key="one")
    store.add_evaluation(records.evaluation("a" * 64, correct=3), fingerprint_key="two")
    assert store.find_evaluation("a" * 64, records.DATA, "local", fingerprint_key=None) == first


def test_numbers_that_json_lacks_survive(store: Store, records: ModuleType) -> None:
    wild = records.evaluation("a" * 64).model_copy(update={"seconds": math.inf, "limit": -math.inf})
    wild = wild.model_copy(update={"outcomes": (wild.outcomes[0].model_copy(update={"candidate_score": math.nan}),)})
    store.add_evaluation(wild)
    back = store.find_evaluation("a" * 64, records.DATA, "local")
    assert (back.seconds, back.limit) == (math.inf, -math.inf)
    assert math.isnan(back.outcomes[0].candidate_score)


def test_trials_leave_out_what_is_not_asked_for(store: Store, records: ModuleType) -> None:
    finish(store, records, 1)
    [plain], [full], [bare] = store.trials(), store.trials(outcomes=True), store.trials(details=False)
    assert plain.evaluations[0].outcomes == ()
    assert len(full.evaluations[0].outcomes) == 30
    assert plain.model_copy(update={"evaluations": full.evaluations}) == full
    assert bare == plain.model_copy(update={"evaluations": (), "measurements": (), "layers": ()})


def test_reading_a_study_takes_the_same_few_queries_however_many_trials(store: Store, records: ModuleType) -> None:
    statements: list[str] = []

    def count(connection: object, cursor: object, statement: str, *rest: object) -> None:
        statements.append(statement)

    def queries() -> int:
        statements.clear()
        store.trials(outcomes=True)
        return len(statements)

    sa.event.listen(store._engine, "before_cursor_execute", count)
    finish(store, records, 1)
    with_one = queries()
    for index in range(2, 12):
        finish(store, records, index)
    assert queries() == with_one <= 9


def test_several_studies_share_a_store(store: Store, place: Path, records: ModuleType) -> None:
    finish(store, records, 1)
    with open_store(place, "ocr") as other:
        assert other.trials() == [] and other.studies() == ["digits"]
        other.begin("{}", "o" * 64)
        assert finish(other, records, 1) == 1
        other.set_meta("front", [1, 2])
        assert other.studies() == ["digits", "ocr"]
    assert len(store.trials()) == 1
    assert store.meta("front") is None
    assert len(store.trial(1).evaluations) == 1, "judgements belong to a study"
    assert len(store.trial(1).measurements) == 1, "measurements belong to the bytes"


def test_a_study_is_about_one_model_and_its_data(store: Store, place: Path) -> None:
    store.begin('{"trials": 40}', "1" * 64)
    store.begin('{"trials": 80}', "1" * 64)
    store.begin('{"trials": 80}', "1" * 64)
    assert (store.config_json, store.workload_digest) == ('{"trials": 80}', "1" * 64)
    with pytest.raises(DataError, match="another model or other data"):
        store.begin('{"trials": 80}', "2" * 64)
    with sqlite3.connect(place) as raw:
        assert [row[0] for row in raw.execute("SELECT config FROM run")] == ['{"trials": 40}', '{"trials": 80}']
    raw.close()


def test_meta(store: Store) -> None:
    assert store.meta("note") is None
    store.set_meta("note", {"a": [1, None, "ü"]})
    store.set_meta("note", {"a": 2})
    assert store.meta("note") == {"a": 2}


def test_sql_users_find_numbers_by_key(store: Store, place: Path, records: ModuleType) -> None:
    for index in (1, 2, 3):
        finish(store, records, index)
    query = (
        "SELECT t.number, m.value FROM metric m JOIN trial t ON t.id = m.trial_id "
        "WHERE m.key = 'size_bytes' AND m.phase = 'search' ORDER BY m.value DESC"
    )
    raw = sqlite3.connect(place)
    assert raw.execute(query).fetchall() == [(3, 1003.0), (2, 1002.0), (1, 1001.0)]
    raw.close()


def test_a_measurement_of_the_first_format_is_read_and_says_what_it_did() -> None:
    old = decode_measurement(GOLDEN.read_text(), "golden")
    assert old.ratio is not None and old.ratio.pairs == 3 and old.ratio.openings == ()
    assert old.latency is not None and old.latency.median.value == 1.2459000004128029e-05
    assert old.latency.cold_seconds is None and old.energy is None
    assert old.conditions is not None
    assert (old.conditions.runtime_version, old.conditions.threads, old.conditions.clocks) == ("1.31.1", 1, "unknown")
    assert old.scenario.generation_pairs == old.scenario.max_pairs == 3, "it opened its sessions once"
    assert decode_measurement(encode(old), "again") == old
    assert old.scenario != Scenario(**{**old.scenario.model_dump(), "generation_pairs": 4}), "another protocol"


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"scenario": {}}', '{"scenario": {"max_pairs": 1e999}}', "{"])
def test_a_measurement_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(DataError, match="place") as caught:
        decode_measurement(text, "place")
    assert "\n" not in str(caught.value)
