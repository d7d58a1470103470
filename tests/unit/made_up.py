"""Measurements and comparisons as if they had been taken: the numbers are given, the records are the real ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

from hwprofiles.comparison.records import Comparison, Place, Row, Subject
from hwprofiles.comparison.verdicts import cost_of, rankings
from hwprofiles.errors import Failure
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import (
    Conditions,
    Energy,
    Estimate,
    Latency,
    Measurement,
    Memory,
    Quality,
    Ratio,
    ShapeResult,
)
from hwprofiles.scenario import Scenario
from hwprofiles.target import Provenance

FINGERPRINT = Fingerprint(
    machine="x86_64", system="Linux 6.1", cpu_model="Example CPU 9000 @ 2.10GHz", isa=("avx2", "avx512_vnni"),
    cores=2, memory_total=8_200_000_000, runtime="onnxruntime", runtime_version="1.31.1",
    provider="CPUExecutionProvider", python="3.11.9", numpy="2.4.1", threads=1,
)  # fmt: skip
CONDITIONS = Conditions(
    runtime="onnxruntime", runtime_version="1.31.1", provider="CPUExecutionProvider", threads=1, batch=1,
    arena="default", cuda_graph=None, transfers=None, clocks="unknown",
)  # fmt: skip


def around(value: float, half: float) -> Estimate:
    """`half` is the half width of the interval's logarithm."""
    return Estimate(value=value, low=value * math.exp(-half), high=value * math.exp(half))


def latency(seconds: float, half: float = 0.005, *, batch: int = 1) -> Latency:
    return Latency(
        median=around(seconds, half),
        p90=seconds * 1.1,
        p99=None,
        cpu_median=seconds,
        cv=0.02,
        iterations=640,
        blocks=(seconds,) * 20,
        load_seconds=0.08,
        first_seconds=seconds * 3,
        cold_seconds=0.9,
        throughput=batch / seconds,
        openings=tuple(block // 4 for block in range(20)),
    )


def ratio(value: float, half: float = 0.005, *, pairs: int = 20) -> Ratio:
    return Ratio(
        estimate=around(value, half),
        cpu=value,
        pairs=pairs,
        log_ratios=(math.log(value),) * pairs,
        openings=tuple(pair // 4 for pair in range(pairs)),
    )


def measured(
    model: str,
    target: str,
    seconds: float,
    against: float | None = None,
    *,
    half: float = 0.005,
    pairs: int = 20,
    shapes: Mapping[str, float] | None = None,
    provenance: Provenance = "hardware",
    peak: int = 50_000_000,
    joules: float | None = None,
    quality: tuple[Quality, ...] = ("ok",),
) -> Measurement:
    """`against` is the time of what it was paired with; `shapes` is label -> factor on every time."""
    scenario = Scenario(shapes={label: {"x": (1, 3, 48, 100 * n)} for n, label in enumerate(shapes or {}, 1)})
    pairing = None if against is None else ratio(seconds / against, half, pairs=pairs)
    return Measurement(
        target=target,
        model=digest(model),
        baseline=None if against is None else digest("baseline"),
        scenario=scenario,
        fingerprint=FINGERPRINT,
        provenance=provenance,
        latency=latency(seconds, half),
        baseline_latency=None if against is None else latency(against, half),
        ratio=pairing,
        by_shape=tuple(
            ShapeResult(
                label=label,
                shapes={"x": (1, 3, 48, 100 * n)},
                latency=latency(seconds * factor, half),
                baseline_latency=None if against is None else latency(against * factor, half),
                ratio=pairing,
            )
            for n, (label, factor) in enumerate((shapes or {}).items(), 1)
        ),
        memory=Memory(
            peak=peak, load_peak=peak + 60_000_000, run_peak=peak + 90_000_000, import_only=90_000_000, runs=1
        ),
        energy=None if joules is None else Energy(joules=around(joules, 0.02), idle_watts=3.0, source="rapl:package-0"),
        conditions=CONDITIONS,
        quality=quality,
        started_at="2026-03-01T10:00:00.000+00:00",
        seconds=21.0,
    )


def failed(model: str, target: str, message: str) -> Measurement:
    return Measurement(
        target=target,
        model=digest(model),
        baseline=None,
        scenario=Scenario(),
        fingerprint=FINGERPRINT,
        provenance="hardware",
        failure=Failure(kind="bad_model", stage="load", message=message),
        started_at="2026-03-01T10:00:00.000+00:00",
        seconds=1.0,
    )


def row(record: Measurement, model: str, price: float | None = None) -> Row:
    cost = {}
    if price is not None and record.latency is not None and record.provenance == "hardware":
        found = {result.label: result.latency for result in record.by_shape} or {"": record.latency}
        cost = {label: cost_of(one, price) for label, one in found.items()}
    return Row(model=model, target=record.target, measurement=record, cost=cost)


def compared(
    rows: Sequence[Row],
    *,
    prices: Mapping[str, float] | None = None,
    sizes: Mapping[str, int] | None = None,
    currency: str = "EUR",
) -> Comparison:
    """The comparison of these rows, judged by the real rules."""
    models = tuple(
        Subject(name=name, path=name, sha256=digest(name), size_bytes=(sizes or {}).get(name, 4_000_000))
        for name in dict.fromkeys(row.model for row in rows)
    )
    first = next((row.measurement for row in rows if row.measurement is not None), None)
    scenario = first.scenario if first is not None else Scenario()
    shapes = tuple(scenario.shapes) or ("",)
    places = tuple(
        Place(
            name=name,
            description=f"the target {name}",
            provenance=next(
                (r.measurement.provenance for r in rows if r.target == name and r.measurement is not None), "hardware"
            ),
            price=(prices or {}).get(name),
            fingerprint=FINGERPRINT,
        )
        for name in dict.fromkeys(row.target for row in rows)
    )
    return Comparison(
        models=models,
        targets=places,
        scenario=scenario,
        shapes=shapes,
        currency=currency,
        rows=tuple(rows),
        rankings=rankings(models, rows, shapes),
        started_at="2026-03-01T10:00:00.000+00:00",
        seconds=120.0,
    )


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
