"""Measured swaps: one block of layers at a time takes a choice, in the model and on the target.

A profile times kernels one by one: it knows neither what is fused across layers nor what a conversion between two
formats costs, and it is taken on one target only. So after the uniform recipes each block of neighbouring layers takes
the fastest uniform choice alone, and the model is timed against the original with a few pairs; then the next choice,
until the share of the search time is spent. No swap is a trial: it is not judged, and its model is not kept. What was
measured is in the store, and never measured again. `swap_table` makes latency tables of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from autotune.config import StudyConfig
from autotune.errors import TrialFailure
from autotune.recipe import NONE, Recipe
from autotune.search.blocks import blocks
from autotune.search.prepare import Prepared
from autotune.search.runner import TrialRunner
from autotune.search.side import side_of
from autotune.search.space import Space
from autotune.search.targets import Stopped, TargetPaused
from autotune.store import Store
from hwprofiles.errors import DeviceFailure
from hwprofiles.scenario import Scenario

MOST_BLOCKS = 8
PAIRS = 6  # of a measurement; a block is worth some percent, so 1 % is near enough
LATENCIES = ("latency_ratio", "latency_p50", "latency_p90")


class Swap(BaseModel):
    """One block with one choice on one target. `gain`: what it adds to the ratio of latencies (negative: it is faster).

    `params`: parameter -> choice, of those that were changed. `gain` is None where it could not be measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: str
    label: str  # of the uniform recipe that it is a part of
    params: dict[str, str]
    gain: float | None
    margin: float = 0.0  # half width of the interval of the ratio
    seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Part:
    """What is to be measured: a block's part of a uniform recipe."""

    block: str
    label: str
    params: Mapping[str, str]
    recipe: Recipe


@dataclass(frozen=True)
class Swaps:
    """Measures swaps within a time; `tell` is called with what is being done, `say` with what went wrong."""

    config: StudyConfig
    prepared: Prepared
    store: Store
    runner: TrialRunner

    def run(self, seconds: float, tell: Callable[[str], None], say: Callable[[str], None]) -> int:
        """How many were measured now; none is begun that would take longer than is left. Raises `Stopped`."""
        end, longest, done = time.monotonic() + seconds, 0.0, 0
        wanted = [(name, part) for name in self._targets() for part in self._parts(name)]
        wanted.sort(key=lambda each: each[1][0])  # the first choice on every target, then the second
        gone: set[str] = set()
        known = {name: {swap_key(each.params) for each in self.known(name)} for name in self._targets()}
        for name, (_, part) in wanted:
            if name in gone or swap_key(part.params) in known[name]:
                continue
            if self.runner.stop.is_set():
                raise Stopped
            if time.monotonic() + longest >= end:
                break
            tell(f"how fast {part.label} is in {part.block} alone, on {name}")
            begun = time.monotonic()
            try:
                swap = self._measure(name, part)
            except TargetPaused:
                gone.add(name)  # a help, not a need: the search does without it
                continue
            if swap.failure:
                say(f"{part.label} in {part.block} alone could not be timed on {name}: {swap.failure}")
            longest, done = max(longest, time.monotonic() - begun), done + 1
            self._keep(name, swap)
        return done

    def known(self, target: str) -> list[Swap]:
        """What the store holds for the target as it is now."""
        return known(self.store, target, self.prepared.devices[target].fingerprint.key)

    def _targets(self) -> list[str]:
        """Timed targets whose latency is an objective."""
        wanted = {key.target for key in self.config.objective_keys if key.name in LATENCIES}
        return [name for name in self.prepared.timed if name in wanted]

    def _parts(self, target: str) -> Iterator[tuple[int, Part]]:
        """(rank of the choice, block's part), the most promising uniform recipe first."""
        space = self.prepared.space
        block_of = blocks(list(self.prepared.assembler.source.layers), MOST_BLOCKS)
        if starting_ratio(self.store, space, target) is None:
            return
        for rank, (label, params) in enumerate(uniform(self.store, space, target)):
            parts: dict[str, dict[str, str]] = {}
            for variable in space.variables:
                if params[variable.name] != NONE:
                    block = block_of[variable.layers[0]]
                    parts.setdefault(block, {})[variable.name] = params[variable.name]
            if len(parts) < 2:
                continue  # the whole was measured
            for block, chosen in parts.items():
                point = {v.name: chosen.get(v.name, NONE) for v in space.variables}
                yield rank, Part(block, label, chosen, space.recipe(point))

    def _measure(self, target: str, part: Part) -> Swap:
        device, begun = self.prepared.devices[target], time.monotonic()
        path = self.store.folder / "swap.onnx"

        def swap(gain: float | None, margin: float = 0.0, failure: str = "") -> Swap:
            seconds = time.monotonic() - begun
            return Swap(
                block=part.block, label=part.label, params=dict(part.params), gain=gain, margin=margin, seconds=seconds,
                failure=failure,
            )  # fmt: skip

        try:
            path.write_bytes(self.prepared.assembler_of(target).assemble(part.recipe))
            baseline = self.store.artifact_path(side_of(self.runner.sides, target).judging.baseline())
            with self.runner.targets.using(target):
                found = device.measure(
                    path, self.prepared.latency_inputs, baseline=baseline, scenario=few_pairs(self.config.measure)
                )
                if found.failure is not None and found.failure.stage == "start":
                    raise DeviceFailure(found.failure)
        except (TrialFailure, DeviceFailure) as error:
            return swap(None, failure=str(error))
        finally:
            path.unlink(missing_ok=True)
        start = starting_ratio(self.store, self.prepared.space, target)
        if found.failure is not None or found.ratio is None or start is None:
            return swap(
                None, failure=found.failure.message if found.failure is not None else "it was not timed in pairs"
            )
        if found.ratio.pairs < 2:  # it has no interval then, and would be believed as if it were exact
            return swap(None, failure="one pair took all the time that a measurement has; raise [measure] max_seconds")
        ratio = found.ratio.estimate
        return swap(ratio.value - start, (ratio.high - ratio.low) / 2)

    def _keep(self, target: str, swap: Swap) -> None:
        fingerprint = self.prepared.devices[target].fingerprint.key
        kept = [*known(self.store, target, fingerprint), swap]
        records = [each.model_dump(mode="json") for each in kept]
        self.store.set_meta(f"swaps/{target}", {"fingerprint": fingerprint, "swaps": records})


def few_pairs(scenario: Scenario) -> Scenario:
    """The study's protocol with a few pairs, and without memory and energy."""
    pairs = min(PAIRS, scenario.max_pairs)
    least = min(pairs, scenario.min_pairs)
    return scenario.model_copy(update={"min_pairs": least, "max_pairs": pairs, "memory_runs": 0, "energy_seconds": 0.0})


def swap_key(params: Mapping[str, str]) -> str:
    """Identity of a swap: what is changed."""
    return " ".join(f"{name}={choice}" for name, choice in sorted(params.items()))


def known(store: Store, target: str, fingerprint: str) -> list[Swap]:
    """What the store holds of a target; nothing where the machine is another one by now."""
    kept = store.meta(f"swaps/{target}")
    if not isinstance(kept, Mapping) or kept.get("fingerprint") != fingerprint:
        return []
    try:
        return [Swap.model_validate(each) for each in kept["swaps"]]
    except (KeyError, TypeError, ValidationError):
        return []  # of another version: measured anew


def starting_ratio(store: Store, space: Space, target: str) -> float | None:
    """Latency of the recipe in which nothing is chosen, over that of the original; None: it was not measured."""
    if not space.fixed:
        return 1.0
    plain = store.find_trial(space.fixed)
    found = plain.metrics.get(f"latency_ratio@{target}") if plain is not None else None
    return found.value if found is not None else None


def uniform(store: Store, space: Space, target: str) -> list[tuple[str, dict[str, str]]]:
    """(label, point) of the uniform recipes of one technique that were timed on the target: those that broke no
    constraint first, of these the fastest."""
    found = []
    for label, recipe in space.uniform:
        trial, params = store.find_trial(recipe), space.params(recipe)
        if trial is None or params is None or f"latency_ratio@{target}" not in trial.metrics:
            continue
        if len({v.technique for v in space.variables if params[v.name] != NONE}) == 1:
            ratio = trial.metrics[f"latency_ratio@{target}"].value
            found.append((trial.state != "complete", ratio, label, params))
    return [(label, params) for _, _, label, params in sorted(found, key=lambda each: each[:3])]
