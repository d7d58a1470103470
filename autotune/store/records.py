"""Between records and what the columns hold: JSON, compressed JSON, and the digests that records are found
by.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from autotune.errors import DataError
from autotune.evaluation import Outcome
from autotune.trial import LayerOutcome, Value
from hwprofiles.measurement import Measurement
from hwprofiles.scenario import Scenario

_LARGEST = 1 << 30  # bytes of outcomes after decompression; more is an attack or damage
_LAYERS = TypeAdapter(tuple[LayerOutcome, ...])
_OUTCOMES = TypeAdapter(tuple[Outcome, ...])

RecordT = TypeVar("RecordT", bound=BaseModel)


def decode(kind: type[RecordT], text: str, where: str) -> RecordT:
    """Raises `DataError` naming `where` when `text` is not such a record."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise damaged(where, error) from error


def decode_measurement(text: str, where: str) -> Measurement:
    """A measurement of this or an earlier format. Raises `DataError` naming `where`.

    History of the format: 1, the first. 2: `conditions` of a latency, `generation_pairs` of a scenario, and fields that
    may be left out. What a version 1 did is known, so it is written down here and not guessed: sessions with default
    options, opened once for all pairs.
    """
    if '"generation_pairs"' in text:  # version 2: not taken apart twice, as a study has thousands
        return decode(Measurement, text, where)
    data = decode_json(text, where)
    try:
        scenario, found = data["scenario"], data["fingerprint"]
        scenario["generation_pairs"] = scenario["max_pairs"]
        if data.get("latency") is not None:
            data["conditions"] = {
                **{key: found[key] for key in ("runtime", "runtime_version", "provider", "threads")},
                "batch": scenario["batch"],
                "arena": "default",
                "cuda_graph": None,
                "transfers": None,
                "clocks": "unknown",
            }
        return Measurement.model_validate_json(json.dumps(data))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(where, error) from error


def encode(record: BaseModel, *, exclude: set[str] | None = None) -> str:
    """JSON by Python's own writer, which keeps NaN and infinities where pydantic's would make them null."""
    return json.dumps(record.model_dump(mode="json", exclude=exclude), separators=(",", ":"))


def encode_layers(layers: Iterable[LayerOutcome]) -> str:
    return json.dumps(_LAYERS.dump_python(tuple(layers), mode="json"), separators=(",", ":"))


def decode_layers(text: str, where: str) -> tuple[LayerOutcome, ...]:
    try:
        return _LAYERS.validate_json(text)
    except ValidationError as error:
        raise damaged(where, error) from error


def encode_outcomes(outcomes: Iterable[Outcome]) -> bytes:
    """zlib-compressed JSON."""
    return zlib.compress(json.dumps([outcome.model_dump(mode="json") for outcome in outcomes]).encode())


def decode_outcomes(data: bytes, where: str) -> tuple[Outcome, ...]:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, _LARGEST)
        if not stream.eof:
            raise DataError(f"{where} is damaged: its data end early or are too large")
        return _OUTCOMES.validate_json(text)
    except (zlib.error, ValueError, TypeError) as error:
        raise damaged(where, error) from error


def decode_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise damaged(where, error) from error


def encode_durations(durations: Mapping[str, float]) -> str:
    return json.dumps({stage: float(seconds) for stage, seconds in durations.items()}, sort_keys=True)


def metric_rows(trial_id: int, phase: str, metrics: Mapping[str, Value]) -> list[dict[str, Any]]:
    """Raises `DataError` for a value that is no number: it would win or lose every comparison."""
    for key, value in metrics.items():
        if not math.isfinite(value.value) or math.isnan(value.low) or math.isnan(value.high):
            raise DataError(f"metric {key!r} is {value.value} (from {value.low} to {value.high}), which is no result")
    return [
        {"trial_id": trial_id, "phase": phase, "key": key, "value": v.value, "low": v.low, "high": v.high}
        for key, v in metrics.items()
    ]


def measurement_identity(model: str, baseline: str | None, target: str, fingerprint_key: str, scenario: str) -> str:
    """What makes two measurements the same one: bytes, hardware and protocol. `scenario` is its digest."""
    facts = [model, baseline, target, fingerprint_key, scenario]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def identity_of(measurement: Measurement) -> str:
    return measurement_identity(
        measurement.model,
        measurement.baseline,
        measurement.target,
        measurement.fingerprint.key,
        scenario_digest(measurement.scenario),
    )


def scenario_digest(scenario: Scenario) -> str:
    """sha256 of the canonical JSON of the protocol."""
    text = json.dumps(scenario.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def damaged(where: str, error: Exception) -> DataError:
    cause = " ".join(str(error).split())
    short = cause if len(cause) <= 200 else cause[:200] + "..."
    return DataError(f"{where} is damaged or was written by a newer autotune: {short}; upgrade, or use another --store")
