"""Large cuts in several smaller ones, with training between: what is cut, what is kept, and what the artifact holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from autotune.compress import moments
from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.config import RecoverTable
from autotune.recipe import Recipe
from autotune.recover.settings import Checkpoint, Progress, Settings
from autotune.search.opening import CHECKPOINTS
from autotune.search.targets import Stopped
from autotune.store import Store, open_store
from autotune.techniques.factorize import Factorize
from autotune.techniques.prune import Prune
from autotune.techniques.quantize import Quantize
from autotune.techniques.recover import Recover
from autotune.trial import Trial
from autotune.workload import Workload
from tests.unit.recover.digit_net import digits, inputs_of
from tests.unit.recover.reference import run
from tests.unit.recover.test_training import distillation

torch = pytest.importorskip("torch")

from autotune.search.recovery.attempt import Attempt  # noqa: E402 they need torch
from autotune.search.recovery.gradual import Gradual, Size, with_tensors  # noqa: E402
from autotune.search.recovery.training import Training, Untrained  # noqa: E402

FIRST, SECOND, HIDDEN, HEAD = "0", "2", "5", "7"  # layers
CUT = {FIRST: "cut-50%", SECOND: "cut-50%", HIDDEN: "cut-50%"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store.db", "digits") as found:
        yield found


def assembler_of(folder: Path, **techniques: Any) -> Assembler:
    """Of the network for digits, with moments of 32 images."""
    found = digits()
    prune = Prune(shares=[0.5], round_to=1)
    known = {"prune": prune, "quantize": Quantize(), "recover": Recover(), **techniques}
    layers = found.ingested.inspection.layers
    made = Assembler(found.ingested.model, layers, OrtCpu(), known, checkpoints=folder / CHECKPOINTS)
    feeds = {"image": inputs_of(found.train)["image"][:32]}

    def runs(wanted: tuple[str, ...]) -> list[dict[str, np.ndarray]]:
        shown = onnx.load_from_string(made.assemble(Recipe()))
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in ("image", "scores"))
        seen = run(shown, feeds) | feeds
        return [{name: seen[name] for name in wanted}]

    made.tell_moments(moments.collect(made.source, runs, folder / "moments"))
    prune.survey(made.original())
    return made


def training_of(assembler: Assembler, **table: Any) -> Training:
    found = digits()
    given = {"minutes": 60.0, "steps": 60, "batch": 64, "relative_rate": 0.02, "patience": 20, "cuts": 3, **table}
    workload = Workload(found.model, found.validation, found.validation, [], list, train=found.train)
    return Training(RecoverTable.model_validate(given), assembler, workload, found.train)


def trial_of(recipe: dict[str, dict[str, str]]) -> Trial:
    return Trial.model_validate({"number": 1, "recipe": recipe, "state": "complete"})


def shape(assembler: Assembler, source: Any, layer: str) -> int:
    axis = assembler.source.layers[layer].output_axis
    return int(source.layers[layer].shape[axis])


def quiet(_: Progress, __: object) -> None:
    """Nobody watches."""


# -- the cuts


def test_every_cut_takes_an_even_part_and_the_last_one_ends_where_the_recipe_does(store: Store) -> None:
    made = assembler_of(store.folder)
    gradual = Gradual(training_of(made), Recipe({"prune": CUT}))
    assert gradual.obstacle() == ""
    source, widths = None, []
    for done in (1, 2, 3):
        source = gradual.next(source, done, 3)
        widths.append({name: shape(made, source, name) for name in CUT})
    target = made.structured(Recipe({"prune": CUT}))
    assert widths[-1] == {name: shape(made, target, name) for name in CUT} == {FIRST: 8, SECOND: 12, HIDDEN: 20}
    assert widths[0] == {FIRST: 14, SECOND: 20, HIDDEN: 34}
    assert source is not None and [n.SerializeToString() for n in source.nodes] == [
        n.SerializeToString() for n in target.nodes
    ]


def test_what_goes_next_is_chosen_by_the_weights_that_training_found(store: Store) -> None:
    made = assembler_of(store.folder)
    gradual = Gradual(training_of(made), Recipe({"prune": {HIDDEN: "cut-50%"}}))
    first = gradual.next(None, 1, 2)
    assert shape(made, first, HIDDEN) == 30
    weight, bias = first.layers[HIDDEN].weight, first.layers[HIDDEN].bias
    assert bias is not None
    head = first.layers[HEAD].weight
    plain = gradual.next(first, 2, 2).tensors.array(weight)
    kept = {tuple(row) for row in plain}
    rows = first.tensors.array(weight)
    weak = next(i for i, row in enumerate(rows) if tuple(row) not in kept)
    strong = first.tensors.array(head).copy()
    strong[:, weak] *= 100  # training has found a use for it
    after = gradual.next(with_tensors(first, {head: strong}), 2, 2)
    assert tuple(rows[weak]) in {tuple(row) for row in after.tensors.array(weight)}
    changed = gradual.differences(after)
    assert {weight, bias, head} <= changed.keys()


def test_other_structural_techniques_come_after_the_last_cut(store: Store) -> None:
    factorize = Factorize(ranks=[0.5], round_to=1)
    made = assembler_of(store.folder, factorize=factorize)
    factorize.survey(made.original())
    recipe = Recipe({"prune": {SECOND: "cut-50%"}, "factorize": {HIDDEN: "rank-50%"}})
    gradual = Gradual(training_of(made), recipe)
    half = gradual.next(None, 1, 2)
    assert HIDDEN in half.layers
    trained = with_tensors(half, {half.layers[FIRST].weight: half.tensors.array(half.layers[FIRST].weight) * 1.1})
    last = gradual.next(trained, 2, 2)
    assert HIDDEN not in last.layers and half.layers[FIRST].weight in gradual.differences(last)


@pytest.mark.parametrize(
    ("size", "of", "left"),
    [
        (Size(16, 8, 1), 3, [14, 11, 8]),
        (Size(12, 6, 3), 2, [9, 6]),  # two heads of three
        (Size(12, 9, 3), 3, [12, 12, 9]),  # one head goes at the end
        (Size(1000, 950, 1), 10, [1000, 1000, 1000, 1000, 975, 975, 975, 975, 975, 950]),  # at least 2 % at a time
    ],
)
def test_sizes_between(size: Size, of: int, left: list[int]) -> None:
    assert [size.after(done, of) for done in range(1, of + 1)] == left


@pytest.mark.parametrize(
    ("recipe", "method", "words"),
    [
        ({"quantize": {FIRST: "w8-load"}}, "nearest", "cuts nothing"),
        ({"prune": CUT, "quantize": {HEAD: "w8-load"}}, "gptq", "'7' depends on which of its inputs are left"),
        ({"prune": CUT, "quantize": {HEAD: "w8-load"}}, "nearest", ""),
    ],
)
def test_why_a_recipe_is_cut_at_once(recipe: Any, method: Any, words: str, store: Store) -> None:
    made = assembler_of(store.folder, quantize=Quantize(rounding=method))
    found = Gradual(training_of(made), Recipe(recipe)).obstacle()
    assert (words in found) if words else not found


@pytest.mark.slow  # torch's exporter takes seconds
def test_a_module_is_cut_at_once_and_the_route_is_why(store: Store) -> None:
    pytest.importorskip("torch_pruning", reason="needs hw-autotune[torch-pruning]")
    from tests.contract.test_prune_routes import case

    made, _ = case("residual").by("torch-pruning")
    found = Gradual(training_of(made), Recipe({"prune": {"first": "cut-50%"}})).obstacle()
    assert found == "not supported on the route torch-pruning"


# -- a whole training


@pytest.mark.parametrize("formats", [{}, dict.fromkeys([FIRST, SECOND, HIDDEN, HEAD], "w4-b32-load")])
def test_the_artifact_answers_as_the_checkpoint_did(formats: dict[str, str], store: Store) -> None:
    recipe = {"prune": CUT, **({"quantize": formats} if formats else {})}
    made = assembler_of(store.folder)
    found = Attempt(training_of(made), store, "data").run(trial_of(recipe), {}, quiet)
    assert found.state == "done" and found.failure is None
    assert len(found.cuts) == 2 and [cut.step <= 20 * (i + 1) for i, cut in enumerate(found.cuts)] == [True, True]
    assert found.step == 60 and found.start is not None
    best = found.checkpoints[-1]
    assert best.validation < 0.5 * found.start
    artifact = made.assemble(Recipe({**recipe, "recover": {"weights": best.name}}))
    feeds = inputs_of(_split()[1])
    answers, teacher = run(artifact, feeds)["scores"], run(digits().model, feeds)["scores"]
    assert distillation(answers, teacher) == pytest.approx(best.validation, rel=1e-3)
    one = Attempt(training_of(made, cuts=1), store, "data").run(trial_of(recipe), {}, quiet)
    at_once = made.assemble(Recipe({**recipe, "recover": {"weights": one.checkpoints[-1].name}}))
    shapes = [
        [(t.name, tuple(t.dims)) for t in onnx.load_from_string(data).graph.initializer] for data in (artifact, at_once)
    ]
    assert shapes[0] == shapes[1]


def test_what_was_interrupted_between_two_cuts_goes_on_there(store: Store) -> None:
    made = assembler_of(store.folder)
    seen: list[int] = []

    def stopping(progress: Progress, record: Any) -> None:
        if record.step == 30:
            raise Stopped

    def watching(progress: Progress, record: Any) -> None:
        seen.append(record.step)

    attempt = Attempt(training_of(made), store, "data")
    with pytest.raises(Stopped):
        attempt.run(trial_of({"prune": CUT}), {}, stopping)
    found = attempt.run(trial_of({"prune": CUT}), {}, watching)
    assert seen[0] == 21 and seen[-1] == 60 and len(found.cuts) == 2 and found.checkpoints
    again = attempt.run(trial_of({"prune": CUT}), {}, watching)
    assert again == found and len(seen) == 40


def test_a_recipe_that_cuts_nothing_says_so(store: Store) -> None:
    recipe = {"quantize": dict.fromkeys([FIRST, SECOND], "w2-b32-load")}
    attempt = Attempt(training_of(assembler_of(store.folder)), store, "data")
    found = attempt.run(trial_of(recipe), {}, quiet)
    assert found.why.endswith("(cut at once: it cuts nothing that can go little by little)") and not found.cuts


class StuckAtTheEnd(Training):
    """Learns after every cut but the last one: from then on its steps are too small to change a number."""

    def run(self, student: Untrained, settings: Settings, **more: Any) -> Iterator[Checkpoint]:
        stuck = replace(settings, relative_rate=1e-12)
        yield from super().run(student, stuck if settings.seed >= 40 else settings, **more)


def test_what_the_cuts_gave_is_kept_where_the_last_training_gains_nothing(store: Store) -> None:
    made = assembler_of(store.folder)
    given = training_of(made)
    training = StuckAtTheEnd(given.table, made, given.workload, given.train)
    found = Attempt(training, store, "data").run(trial_of({"prune": CUT}), {}, quiet)
    assert found.why == "no gain within 60 steps; the weights that came of the cuts are kept"
    (kept,) = found.checkpoints
    assert kept.step == 40 and kept.validation == found.start
    answers, teacher = (
        run(made.assemble(recipe), inputs_of(_split()[1]))["scores"]
        for recipe in (Recipe({"prune": CUT, "recover": {"weights": kept.name}}), Recipe())
    )
    assert distillation(answers, teacher) == pytest.approx(kept.validation, rel=1e-3)
    at_once = run(made.assemble(Recipe({"prune": CUT})), inputs_of(_split()[1]))["scores"]
    assert kept.validation < 0.8 * distillation(at_once, teacher)


def test_what_the_cuts_gave_is_no_checkpoint_where_the_last_training_gains(store: Store) -> None:
    training = training_of(assembler_of(store.folder), checkpoints=10)
    found = Attempt(training, store, "data").run(trial_of({"prune": CUT}), {}, quiet)
    assert found.checkpoints and found.checkpoints == found.better() and found.checkpoints[0].step > 40
    there = {path.stem for path in (store.folder / CHECKPOINTS).iterdir()}
    assert len(found.cuts) == 2 and there == {each.name for each in found.checkpoints}  # what is kept becomes trials


def test_cuts_that_take_all_of_the_time_are_kept_as_they_are(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(0, 10)  # every look at the clock takes ten seconds
    monkeypatch.setattr("autotune.recover.schedule.monotonic", lambda: float(next(now)))
    seen: list[int] = []
    begin = Training.student

    def without_clock(training: Training, recipe: Recipe) -> Untrained:
        """After the last cut no look at the clock ends a training."""
        monkeypatch.setattr("autotune.recover.schedule.monotonic", lambda: 0.0)
        return begin(training, recipe)

    monkeypatch.setattr(Training, "student", without_clock)
    attempt = Attempt(training_of(assembler_of(store.folder), minutes=1.5), store, "data")
    found = attempt.run(trial_of({"prune": CUT}), {}, lambda _, kept: seen.append(kept.step))
    assert found.state == "done" and found.seconds > 90 and len(found.cuts) == 2
    assert [each.step for each in found.checkpoints] == [found.step] == [seen[-1]]  # no step after the last cut


def test_a_study_that_ended_after_the_last_cut_keeps_what_came_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(0, 10)
    monkeypatch.setattr("autotune.recover.schedule.monotonic", lambda: float(next(now)))
    attempt = Attempt(training_of(assembler_of(store.folder), minutes=1.5), store, "data")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "student", _stopped)  # what the last phase begins with
        with pytest.raises(Stopped):
            attempt.run(trial_of({"prune": CUT}), {}, quiet)
    found = attempt.run(trial_of({"prune": CUT}), {}, quiet)
    assert found.state == "done" and [each.step for each in found.checkpoints] == [found.step]


def _stopped(*_: object) -> Untrained:
    raise Stopped


# -- formats that depend on the calibration data


def test_weights_that_are_rounded_with_compensation_stay_so_when_they_are_trained(store: Store) -> None:
    made = assembler_of(store.folder, quantize=Quantize(rounding="gptq", bias_correction=True))
    recipe = {"quantize": dict.fromkeys([FIRST, SECOND, HIDDEN, HEAD], "w2-b32-load")}
    found = Attempt(training_of(made, cuts=1), store, "data").run(trial_of(recipe), {}, quiet)
    best = found.checkpoints[-1]
    assert found.start is not None and best.validation < 0.5 * found.start
    artifact = made.assemble(Recipe({**recipe, "recover": {"weights": best.name}}))
    feeds = inputs_of(_split()[1])
    answers, teacher = run(artifact, feeds)["scores"], run(digits().model, feeds)["scores"]
    assert distillation(answers, teacher) == pytest.approx(best.validation, rel=1e-3)


def test_validation_weighs_hurt_slices_too(store: Store) -> None:
    """All held-out samples but one count nothing next to it."""
    training = training_of(assembler_of(store.folder), cuts=1, steps=1)
    recipe = Recipe({"quantize": dict.fromkeys([FIRST, SECOND, HIDDEN, HEAD], "w2-b32-load")})
    _, held = _split()
    plain = next(iter(training.run(training.student(recipe), training.settings())))
    losses = {}
    for sample in held.samples[:2]:
        weights = {sample.id: 1e6}
        losses[sample.id] = next(iter(training.run(training.student(recipe), training.settings(), weights=weights)))
        artifact = run(training.assembler.assemble(recipe), sample.inputs)["scores"]
        teacher = run(digits().model, sample.inputs)["scores"]
        assert losses[sample.id].validation == pytest.approx(distillation(artifact, teacher), rel=2e-2)
    assert len({round(each.validation, 6) for each in (plain, *losses.values())}) == 3


def _split() -> tuple[Any, Any]:
    from autotune.search.recovery import data

    return data.split(digits().train)
