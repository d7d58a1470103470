"""What zeros buy on each target, measured: the model with most zeros against the dense one, by the ordinary protocol.

Done once per target and recipe, and kept in the store under "zeros/TARGET". A few pairs are mostly enough: a kernel
that skips zeros is worth tens of percent, and one that does not is a tie. That there is no difference is said only of
an interval that lies within `EQUIVALENT`; what is not told apart is measured again the next time, by the study's whole
protocol.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from autotune.config import StudyConfig
from autotune.errors import DataError, TrialFailure
from autotune.keys import format_amount, parse_key
from autotune.recipe import Recipe
from autotune.search.prepare import Prepared
from autotune.search.progress import Progress, Watcher
from autotune.search.runner import TrialRunner
from autotune.search.swaps import few_pairs
from autotune.search.targets import TargetPaused
from autotune.store import Store
from autotune.techniques.sparsity_report import compressed_size
from autotune.trial import Value
from hwprofiles.errors import DeviceFailure
from hwprofiles.scenario import Scenario

KEY = "zeros/"
STAGE = "sparsify"  # of the techniques that make zeros
EQUIVALENT = 0.03  # of the time: no difference, where the whole interval is within it (two one-sided tests)
_ALIKE = 0.01  # of the time: a difference that is no speed-up worth a word

Verdict = Literal["faster", "slower", "the same", "undecided", "not measured"]
_IN_WORDS: Mapping[Verdict, str] = {
    "faster": "it is faster",
    "slower": "it is slower, measured",
    "the same": "no speed-up here, measured",
    "undecided": "its time is not told apart from that of the dense model",
}


class Zeros(BaseModel):
    """One choice, made for every layer that has it, on one target. Downloads in bytes (zlib, level 6).

    `recipe` is the digest of the recipe, and `meaning` what its techniques say beside it, as JSON. `time`: latency over
    that of the dense model, with its interval; None where it was not measured, for `failure`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    fingerprint: str
    choice: str
    layers: int
    dense_download: int
    download: int
    time: Value | None
    failure: str = ""
    recipe: str = ""
    meaning: str = ""

    @property
    def faster(self) -> bool:
        """Whether the whole interval says so."""
        return self.verdict == "faster"

    @property
    def undecided(self) -> bool:
        """Whether it was timed, and the interval is too wide to say anything."""
        return self.verdict == "undecided"

    @property
    def verdict(self) -> Verdict:
        """What the interval says. A single pair has none (it is one number) and says nothing."""
        if self.time is None:
            return "not measured"
        low, high = self.time.low, self.time.high
        if not low < high:
            return "undecided"
        if high < 1 - _ALIKE:
            return "faster"
        if low > 1 + _ALIKE:
            return "slower"
        return "the same" if low >= 1 - EQUIVALENT and high <= 1 + EQUIVALENT else "undecided"

    @property
    def speed(self) -> str:
        """What it does to the time, in words."""
        if self.time is None:
            return f"its time could not be measured: {self.failure}"
        low, high = self.time.low, self.time.high
        spread = f"{low:.3f} to {high:.3f}" if low < high else "one pair, so no interval"
        return f"{_IN_WORDS[self.verdict]}: {self.time.value:.3f} times that of the dense model ({spread})"

    @property
    def sentence(self) -> str:
        """In one line, without a full stop."""
        key = parse_key("download_bytes")
        before, after = (format_amount(each, key) for each in (self.dense_download, self.download))
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        return f"{self.choice} in {layers} on {self.target}: {self.speed}; a download is {after} in place of {before}"


class Meta(Protocol):
    """The part of a store that is read back."""

    def meta(self, key: str) -> Any:
        """What was kept under `key`."""


def find_out(
    config: StudyConfig, prepared: Prepared, store: Store, runner: TrialRunner, watch: Watcher
) -> dict[str, tuple[Zeros, ...]]:
    """Target -> what zeros buy there; measured where it is not known of the target and the recipe as they are now, and
    again where that failed or did not tell them apart. Empty where the study makes no zeros, or has no target whose
    times count."""
    recipes = dict(_recipes(prepared))
    found: dict[str, tuple[Zeros, ...]] = {}
    for target in prepared.timed if recipes else ():
        fingerprint = prepared.devices[target].fingerprint.key
        kept = {
            each.choice: each
            for each in known(store, target)
            if each.time is not None and each.fingerprint == fingerprint and each.choice in recipes
            if (each.recipe, each.meaning) == _identity(prepared, recipes[each.choice])
        }
        try:
            for choice, recipe in recipes.items():
                before = kept.get(choice)
                if before is not None and not before.undecided:
                    continue
                watch(Progress("prepare", f"what zeros buy: {choice} on {target}"))
                scenario = few_pairs(config.measure) if before is None else _all_pairs(config.measure)
                made = _measured(scenario, prepared, store, runner, target, choice, recipe)
                if before is None or made.time is not None:  # something undecided is more than a failure
                    kept[choice] = made
        except TargetPaused:
            continue  # a help, not a need: said as far as it is known
        finally:
            if kept:
                store.set_meta(KEY + target, [each.model_dump(mode="json") for each in kept.values()])
        found[target] = tuple(kept[choice] for choice in recipes)
    return found


def _all_pairs(scenario: Scenario) -> Scenario:
    """The study's protocol, of which latency alone counts here."""
    return scenario.model_copy(update={"memory_runs": 0, "energy_seconds": 0.0})


def known(store: Meta, target: str) -> tuple[Zeros, ...]:
    """What the store holds of a target, whatever state it was in then. Raises `DataError` for something else."""
    kept = store.meta(KEY + target)
    try:
        return tuple(Zeros.model_validate(each) for each in kept or ())
    except (TypeError, ValidationError) as error:
        raise DataError(
            f"the store's saved {KEY + target!r} cannot be read; it is damaged or of another version"
        ) from error


def _recipes(prepared: Prepared) -> Iterator[tuple[str, Recipe]]:
    """(choice, recipe) of the most zeros, and of every pattern: what kernels exist for."""
    space, techniques = prepared.space, prepared.assembler.techniques
    for name in (name for name, technique in techniques.items() if technique.stage == STAGE):
        variables = [variable for variable in space.variables if variable.technique == name]
        choices = list(dict.fromkeys(choice for variable in variables for choice in variable.choices[1:]))
        patterns = [choice for choice in choices if ":" in choice]
        shares = [choice for choice in choices if choice not in patterns]
        for choice in [*shares[-1:], *patterns]:
            decisions: dict[str, str] = {}
            for variable in variables:
                if choice in variable.choices:
                    decisions |= variable.decisions(choice)
            yield choice, Recipe({**space.fixed.to_dict(), name: decisions})


def _identity(prepared: Prepared, recipe: Recipe) -> tuple[str, str]:
    """What tells one model of zeros from another: the recipe's digest, and what its techniques mean by it."""
    techniques = prepared.assembler.techniques
    said: dict[str, Callable[[], Mapping[str, str]] | None] = {
        name: getattr(techniques[name], "meaning", None) for name in recipe
    }
    meanings = {name: dict(meaning()) for name, meaning in said.items() if meaning is not None}
    return recipe.digest, json.dumps(meanings, sort_keys=True)


def _measured(
    scenario: Scenario, prepared: Prepared, store: Store, runner: TrialRunner, target: str, choice: str, recipe: Recipe
) -> Zeros:
    device, assembler = prepared.devices[target], prepared.assembler_of(target)
    fixed = prepared.space.fixed
    layers = {layer for name in recipe if name not in fixed for layer in recipe[name]}
    paths = [store.folder / "zeros.onnx", store.folder / "dense.onnx"]
    time, failure = None, ""
    sizes: list[int] = [0, 0]
    try:
        for index, each in enumerate((recipe, fixed)):
            content = assembler.assemble(each)
            paths[index].write_bytes(content)
            sizes[index] = compressed_size(content)
        with runner.targets.using(target):
            found = device.measure(paths[0], prepared.latency_inputs, baseline=paths[1], scenario=scenario)
            if found.failure is not None and found.failure.stage == "start":
                raise DeviceFailure(found.failure)
        if found.failure is not None:
            failure = found.failure.message
        elif found.ratio is None:
            failure = "it was not timed in pairs"
        else:
            ratio = found.ratio.estimate
            time = Value(value=ratio.value, low=ratio.low, high=ratio.high)
    except (TrialFailure, DeviceFailure) as error:
        failure = str(error)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    digest, meaning = _identity(prepared, recipe)
    return Zeros(
        target=target, fingerprint=device.fingerprint.key, choice=choice, layers=len(layers), dense_download=sizes[1],
        download=sizes[0], time=time, failure=failure, recipe=digest, meaning=meaning,
    )  # fmt: skip


def sentences(found: Mapping[str, tuple[Zeros, ...]]) -> list[str]:
    """One line per target and choice."""
    return [each.sentence for measured in found.values() for each in measured]
