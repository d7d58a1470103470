"""From measurements and judgements to metric keys: the numbers that objectives, constraints and tables read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autotune.config import StudyConfig
from autotune.evaluation import Evaluation
from autotune.keys import WORST, WORST_ANYWHERE
from autotune.techniques.sparsity_report import compressed_size
from autotune.trial import Value
from hwprofiles.measurement import Estimate, Measurement


def file_metrics(config: StudyConfig, path: Path) -> dict[str, Value]:
    """size_bytes, and download_bytes where the study weighs it."""
    metrics = {"size_bytes": Value.exact(float(path.stat().st_size))}
    if config.weighs_download:
        metrics["download_bytes"] = Value.exact(float(compressed_size(path.read_bytes())))
    return metrics


def at_targets(metrics: Mapping[str, Value], targets: Sequence[str]) -> dict[str, Value]:
    """The metrics of a runtime family under the name of each of its targets."""
    return {f"{key}@{target}": value for target in targets for key, value in metrics.items()}


def slice_drops(metrics: Mapping[str, Value]) -> Iterator[tuple[str, Value]]:
    """(slice, its drop), once for every runtime family that judged it."""
    for text, value in metrics.items():
        name, slash, rest = text.partition("/")
        named = rest.partition("@")[0]
        if name == "drop" and slash and named != WORST:
            yield named, value


def worst_anywhere(metrics: Mapping[str, Value], targets: Sequence[str]) -> dict[str, Value]:
    """`drop/worst@worst`: the largest `drop/worst` of `targets`, which judge; nothing before all of them have."""
    drops = [metrics.get(f"drop/{WORST}@{target}") for target in targets]
    known = [drop for drop in drops if drop is not None]
    if len(known) < len(drops):
        return {}
    columns = ((drop.value, drop.low, drop.high) for drop in known)
    value, low, high = (max(column) for column in zip(*columns, strict=True))
    return {WORST_ANYWHERE: Value(value=value, low=low, high=high)}


def cost_metrics(measurement: Measurement) -> dict[str, Value]:
    """latency_p50, latency_p90, latency_ratio, memory_peak and energy_j of one target; only what was measured.

    Nothing at all for what was not measured on hardware: emulators invert rankings, so their numbers may not decide.
    """
    if measurement.provenance != "hardware":
        return {}
    at = f"@{measurement.target}"
    metrics: dict[str, Value] = {}
    if measurement.latency is not None:
        metrics[f"latency_p50{at}"] = _value(measurement.latency.median)
        if measurement.latency.p90 is not None:
            metrics[f"latency_p90{at}"] = Value.exact(measurement.latency.p90)
    if measurement.ratio is not None:
        metrics[f"latency_ratio{at}"] = _value(measurement.ratio.estimate)
    if measurement.memory is not None:
        metrics[f"memory_peak{at}"] = Value.exact(float(measurement.memory.peak))
    if measurement.energy is not None:
        metrics[f"energy_j{at}"] = _value(measurement.energy.joules)
    return metrics


def judged_metrics(evaluation: Evaluation, floor: int) -> dict[str, Value]:
    """The workload's metric, drops and flips, overall (no slice), per slice and for the worst slice.

    `drop/worst` is shrunk (see `Evaluation.worst_drop`); `<metric>/worst` is the lowest slice of at least `floor`
    samples. Another metric of the workload has keys of its own name, e.g. f1/night; its drops are drop/f1:night.
    """
    metrics: dict[str, Value] = {}
    for result in evaluation.slices:
        own = result.name.removeprefix(f"{result.metric}:") if result.metric else result.name
        metrics[_key(result.metric or evaluation.metric, own)] = _value(result.candidate)
        tail = "" if result.name == "all" else f"/{result.name}"
        metrics[f"drop{tail}"] = _value(result.drop)
        metrics[f"flips{tail}"] = Value.exact((result.flips_worse + result.flips_better) / max(1, result.n))
    metrics["drop/worst"] = _value(evaluation.worst_drop)
    first = [r for r in evaluation.slices if not r.metric]
    large = [r for r in first if r.n >= floor] or first
    metrics[f"{evaluation.metric}/worst"] = _value(min(large, key=lambda r: r.candidate.value).candidate)
    return metrics


def _key(metric: str, slice_: str) -> str:
    return metric if slice_ == "all" else f"{metric}/{slice_}"


def broken(metrics: Mapping[str, Value], limits: Mapping[str, float], smaller: Mapping[str, bool]) -> list[str]:
    """Constraints that are broken with certainty by what is known so far, as sentences.

    `smaller[key]`: the limit is a maximum. A constraint whose interval still reaches the allowed side is not broken.
    """
    found = []
    for key, limit in limits.items():
        value = metrics.get(key)
        if value is None:
            continue
        if smaller[key] and value.low > limit:
            found.append(f"{key} is at least {value.low:.6g}, the limit is {limit:.6g}")
        if not smaller[key] and value.high < limit:
            found.append(f"{key} is at most {value.high:.6g}, at least {limit:.6g} is asked for")
    return found


def _value(estimate: Estimate) -> Value:
    return Value(value=estimate.value, low=estimate.low, high=estimate.high)
