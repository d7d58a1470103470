"""Whole records for the store's tests, and a program that writes them: `writer.py STORE TRIALS`.

The program works like a coordinator: it holds the lock, continues what is there, and says on stdout what it has done,
one line after each commit. The tests kill it.
"""

from __future__ import annotations

import sys

from autotune.evaluation import Evaluation, Outcome, SliceResult
from autotune.recipe import Recipe
from autotune.store import open_store
from autotune.trial import LayerOutcome, Value
from hwprofiles.errors import Failure
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Conditions, Estimate, Latency, Measurement, Memory, Ratio
from hwprofiles.scenario import SEARCH, Scenario

STUDY = "digits"
BASELINE = "b" * 64
DATA = "d" * 64
FINGERPRINT = Fingerprint(
    machine="x86_64",
    system="Linux 6.1",
    cpu_model="Test CPU",
    isa=("avx2",),
    cores=2,
    memory_total=8 << 30,
    runtime="onnxruntime",
    runtime_version="1.31.1",
    provider="CPUExecutionProvider",
    python="3.11.7",
    numpy="2.1.0",
    threads=1,
)


CONDITIONS = Conditions(
    runtime="onnxruntime",
    runtime_version="1.31.1",
    provider="CPUExecutionProvider",
    threads=1,
    batch=1,
    arena="default",
    cuda_graph=None,
    transfers=None,
    clocks="performance, 3.2 GHz",
)


def recipe(number: int) -> Recipe:
    """Number 0 is the empty recipe."""
    return Recipe({"quantize": {f"layer.{bit}": "int8" for bit in range(12) if number >> bit & 1}})


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value * 0.99, high=value * 1.01)


def measurement(
    model: str, *, scenario: Scenario = SEARCH, seconds: float = 1.0, failure: Failure | None = None
) -> Measurement:
    blocks = tuple(0.01 + index * 1e-5 for index in range(20))
    latency = Latency(
        median=estimate(0.01),
        p90=0.011,
        p99=None,
        cpu_median=0.01,
        cv=0.02,
        iterations=200,
        blocks=blocks,
        load_seconds=0.2,
        first_seconds=0.02,
    )
    numbers = {
        "latency": latency,
        "baseline_latency": latency,
        "ratio": Ratio(estimate=estimate(0.8), cpu=0.8, pairs=20, log_ratios=blocks),
        "conditions": CONDITIONS,
        "memory": Memory(peak=1 << 20, load_peak=1 << 20, run_peak=3 << 20, import_only=2 << 20, runs=1),
    }
    return Measurement(
        target="local",
        model=model,
        baseline=BASELINE,
        scenario=scenario,
        fingerprint=FINGERPRINT,
        provenance="hardware",
        failure=failure,
        started_at="2026-01-01T00:00:00+00:00",
        seconds=seconds,
        **({} if failure else numbers),
    )


def evaluation(artifact: str, *, data: str = DATA, n: int = 30, correct: int = 28) -> Evaluation:
    result = SliceResult(
        name="all",
        n=n,
        original=estimate(1.0),
        candidate=estimate(correct / n),
        drop=estimate(1 - correct / n),
        shrunk_drop=1 - correct / n,
        flips_worse=n - correct,
        flips_better=0,
        p_value=0.5,
        verdict="undecided",
    )
    return Evaluation(
        artifact=artifact,
        dataset="search",
        dataset_digest=data,
        metric="accuracy",
        target="local",
        n=n,
        slices=(result, result.model_copy(update={"name": "font=serif"})),
        worst_slice="all",
        worst_drop=result.drop,
        limit=0.01,
        outcomes=tuple(
            Outcome(
                id=f"sample {index}",
                original="a",
                candidate="a" if index < correct else ["b", index],
                original_score=1.0,
                candidate_score=float(index < correct),
            )
            for index in range(n)
        ),
        seconds=2.0,
    )


def layers(count: int = 3) -> tuple[LayerOutcome, ...]:
    return tuple(
        LayerOutcome(layer=f"layer.{index}", asked="int8", ran="QLinearConv", honoured=True, seconds=1e-4)
        for index in range(count)
    )


def metrics(size: int) -> dict[str, Value]:
    return {
        "size_bytes": Value.exact(size),
        "latency_ratio@local": Value(value=0.8, low=0.78, high=0.82),
        "drop/worst": Value(value=0.004, low=-0.001, high=0.01),
    }


def model_bytes(number: int) -> bytes:
    return f"model {number} ".encode() * 500


def work(place: str, trials: int) -> None:
    def done(*words: object) -> None:
        sys.stdout.write(" ".join(map(str, words)) + "\n")
        sys.stdout.flush()

    with open_store(place, STUDY) as store, store.lock():
        store.begin('{"name": "digits"}', "w" * 64)
        done("begun")
        for index in range(trials):
            number = store.start_trial(recipe(index), "uniform")
            done("started", index, number)
            if store.trial(number).state != "running":
                continue
            artifact = store.save_artifact(model_bytes(index), "ort-cpu")
            store.record_build(number, artifact, layers())
            done("built", index, artifact.digest)
            if not store.find_measurement(artifact.digest, BASELINE, "local", FINGERPRINT.key, SEARCH):
                store.add_measurement(measurement(artifact.digest))
                done("measured", index, artifact.digest)
            if not store.find_evaluation(artifact.digest, DATA, "local"):
                store.add_evaluation(evaluation(artifact.digest))
                done("judged", index, artifact.digest)
            store.finish_trial(number, "complete", metrics=metrics(artifact.size_bytes), durations={"build": 0.1})
            done("finished", index, number)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
