"""A study as a search would leave it: built from the real records, with a model of how layers hurt slices."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from autotune.config import StudyConfig
from autotune.evaluation import Evaluation, Outcome, SliceResult
from autotune.store import HeldoutUse
from autotune.trial import Artifact, LayerOutcome, Trial, TrialState, Value
from hwprofiles.errors import Failure
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Conditions, Estimate, Latency, Measurement, Memory, Ratio
from hwprofiles.scenario import FINAL, SEARCH, Scenario

LAYERS = (
    ("backbone.stem.conv", "Conv", 432),
    *(
        (f"backbone.block{block}.{part}", "Conv", parameters)
        for block, parameters in enumerate((4_600, 18_400, 73_700, 147_000, 295_000, 590_000, 1_180_000), start=1)
        for part in ("depthwise", "pointwise")
    ),
    *((f"neck.mixer.{i}.{part}", "MatMul", 115_200) for i in range(2) for part in ("qkv", "proj", "fc1", "fc2")),
    ("neck.conv_out", "Conv", 55_300),
    ("head.ctc.fc", "MatMul", 795_000),
)
SLICES = {"all": 1000, "font=serif": 340, "font=sans": 330, "font=script": 330, "effect=clean": 420,
          "effect=blur": 260, "effect=noise": 180, "effect=lowres": 112, "kind=digits": 28}  # fmt: skip
TENDER = {
    "backbone.stem.conv": 6.0,
    "backbone.block1.depthwise": 3.0,
    "head.ctc.fc": 2.2,
    "neck.conv_out": 1.6,
}
BITS = {"none": 32, "float16": 16, "int8-static": 8, "int8-dynamic": 8, "w8-load": 8, "w4-b32": 4.5}
HURT = {"none": 0.0, "float16": 0.00002, "int8-static": 0.0028, "int8-dynamic": 0.0011, "w8-load": 0.00025,
        "w4-b32": 0.0021}  # fmt: skip
FASTER = {
    "none": 1.0,
    "float16": 1.0,
    "int8-static": 0.55,
    "int8-dynamic": 0.72,
    "w8-load": 1.0,
    "w4-b32": 0.85,
}
SLICE_FACTOR = {"effect=blur": 2.6, "effect=lowres": 1.7, "font=script": 1.4, "effect=clean": 0.4}
FINGERPRINT = Fingerprint(
    machine="x86_64", system="Linux 6.1", cpu_model="Example CPU 9000 @ 2.10GHz", isa=("avx2", "avx512_vnni"),
    cores=2, memory_total=8_200_000_000, runtime="onnxruntime", runtime_version="1.31.1",
    provider="CPUExecutionProvider", python="3.11.9", numpy="2.4.1", threads=1,
)  # fmt: skip
CONDITIONS = Conditions(
    runtime="onnxruntime", runtime_version="1.31.1", provider="CPUExecutionProvider", threads=1, batch=1,
    arena="default", cuda_graph=None, transfers=None, clocks="performance, 3.20 GHz",
)  # fmt: skip
ANSWERS = (
    "Invoice 2024-117",
    "Rue de Rivoli",
    "MODEL T-800",
    "quantity: 42",
    "Open daily",
    "fjord & glacier",
)


class FakeStore:
    """What the report reads of a store, over trials in memory."""

    def __init__(
        self, trials: Sequence[Trial], config_json: str | None = None, meta: Mapping[str, object] | None = None
    ) -> None:
        self._trials = {trial.number: trial for trial in trials}
        self._meta = dict(meta or {})
        self.uses: list[HeldoutUse] = []
        self.config_json = config_json

    def trials(self, *, outcomes: bool = False) -> list[Trial]:
        if outcomes:
            return list(self._trials.values())
        return [
            trial.model_copy(
                update={"evaluations": tuple(e.model_copy(update={"outcomes": ()}) for e in trial.evaluations)}
            )
            for trial in self._trials.values()
        ]

    def trial(self, number: int) -> Trial:
        return self._trials[number]

    def meta(self, key: str) -> object:
        return self._meta.get(key)

    def heldout_uses(self) -> list[HeldoutUse]:
        return list(self.uses)


class StudyBuilder:
    """Makes trials one after the other, as the search would. `hard` makes every compression lose too much."""

    def __init__(self, *, seed: int = 7, hard: bool = False) -> None:
        self.random = np.random.default_rng(seed)
        self.hard = hard
        self.made: list[Trial] = []

    def config(self) -> StudyConfig:
        return StudyConfig(
            name="ocr",
            description="Text recogniser on rendered text, judged by typeface, effect and kind of text.",
            search={"objectives": ("size_bytes", "latency_ratio@local", "drop/worst")},
            constraints={"drop/worst": 0.01},
        )

    def store(self) -> FakeStore:
        meta: dict[str, object] = {
            "inspection": {
                "layers": [{"name": name, "op": op, "parameters": count} for name, op, count in LAYERS],
                "skipped": [{"name": "neck.lstm", "reason": "recurrent operators pass through"}],
                "notes": ["opset 12 was converted to 21"],
            }
        }
        for index in range(80):
            shown = {"png": base64.b64encode(picture(index)).decode()}
            text = {"text": f"Text of sample {index}, as a person reads it."}
            label = {"label": ANSWERS[index % len(ANSWERS)]}
            meta[f"sample/sample-{index:03d}"] = {**label, **(shown if index % 5 else text)}
        return FakeStore(self.made, self.config().model_dump_json(), meta)

    # ---- one trial

    def add(self, decisions: Mapping[str, str], proposer: str, *, final: bool = False) -> Trial:
        number = len(self.made)
        truth = self._truth(decisions)
        searched = self._evaluation(number, decisions, truth, "search", 0.6)
        evaluations, measurements = [searched], [self._measurement(number, decisions, SEARCH)]
        metrics, finals = self._metrics(decisions, measurements[0], searched), {}
        if final:
            evaluations.append(self._evaluation(number, decisions, truth, "heldout", 1.0))
            measurements.append(self._measurement(number, decisions, FINAL))
            finals = self._metrics(decisions, measurements[1], evaluations[1])
        drop = metrics["drop/worst"].value
        broken = bool(number) and drop > 0.01 and not final
        state: TrialState = "rejected" if broken else "complete"
        trial = Trial(
            number=number,
            reason=f"drop/worst is {drop:.3f}, the limit is 0.01" if broken else "",
            recipe={"quantize": {k: v for k, v in decisions.items() if v != "none"}} if any(
                v != "none" for v in decisions.values()) else {},
            state=state,
            proposer=proposer,
            artifact=Artifact(digest=digest(number), size_bytes=size(decisions), dialect="ort-cpu"),
            metrics=metrics,
            final=finals,
            layers=self._outcomes(number, decisions),
            measurements=tuple(measurements),
            evaluations=tuple(evaluations),
            durations={"assemble": 0.3, "kernels": 0.6, "latency": 9.1, "memory": 0.8, "judge": 6.4, "probe": 1.0},
            started_at=f"2026-03-01T10:{number:02d}:00+00:00",
            finished_at=f"2026-03-01T10:{number:02d}:40+00:00",
        )  # fmt: skip
        self.made.append(trial)
        return trial

    def reject(self, decisions: Mapping[str, str], reason: str) -> Trial:
        return self._stopped(decisions, "rejected", reason=reason)

    def fail(self, decisions: Mapping[str, str], failure: Failure) -> Trial:
        return self._stopped(decisions, "failed", failure=failure)

    def _stopped(self, decisions: Mapping[str, str], state: str, **more: object) -> Trial:
        trial = Trial(
            number=len(self.made),
            recipe={"quantize": dict(decisions)},
            state=state,
            proposer="surrogate",
            artifact=Artifact(digest=digest(len(self.made)), size_bytes=size(decisions), dialect="ort-cpu"),
            metrics={"size_bytes": Value.exact(size(decisions))},
            durations={"assemble": 0.3, "probe": 1.1},
            **more,
        )
        self.made.append(trial)
        return trial

    def _truth(self, decisions: Mapping[str, str]) -> float:
        loss = sum(HURT[choice] * TENDER.get(layer, 0.35) for layer, choice in decisions.items())
        return loss * 0.55 + (0.012 + 2 * loss if self.hard and decisions else 0.0)

    def _measurement(self, number: int, decisions: Mapping[str, str], scenario: Scenario) -> Measurement:
        total = sum(seconds(p) for _, _, p in LAYERS)
        true = sum(seconds(p) * FASTER[decisions.get(n, "none")] for n, _, p in LAYERS) / total
        spread = 0.004 if scenario.phase == "final" else 0.012
        seen = true * math.exp(self.random.normal(0, spread))
        base = 0.0187
        ratio = Estimate(value=seen, low=seen * (1 - 2 * spread), high=seen * (1 + 2 * spread))
        peak = 21_000_000 + int(1.6 * size(decisions))
        return Measurement(
            target="local", model=digest(number), baseline=digest(0), scenario=scenario, fingerprint=FINGERPRINT,
            provenance="hardware",
            latency=Latency(
                median=Estimate(value=base * seen, low=base * seen * 0.99, high=base * seen * 1.01),
                p90=base * seen * 1.1,
                p99=None, cpu_median=base * seen, cv=0.03, iterations=400, blocks=(base * seen,) * 3, load_seconds=0.1,
                first_seconds=0.05,
            ),
            ratio=Ratio(estimate=ratio, cpu=seen, pairs=20, log_ratios=(math.log(seen),) * 3),
            memory=Memory(peak=peak, load_peak=peak, run_peak=peak + 10, import_only=10, runs=1),
            conditions=CONDITIONS,
            quality=("noisy",) if number == 5 else ("ok",), started_at="2026-03-01T10:00:00+00:00", seconds=9.1,
        )  # fmt: skip

    def _evaluation(
        self, number: int, decisions: Mapping[str, str], truth: float, dataset: str, share: float
    ) -> Evaluation:
        slices = []
        for name, count in SLICES.items():
            n = max(int(count * share), 12)
            drop = truth * SLICE_FACTOR.get(name, 0.8) + (
                self.random.normal(0, 0.3 / n**0.5 * truth**0.5) if truth else 0.0
            )
            half = 1.9 * math.sqrt(max(drop, 0.001) / n) * 0.6 if truth else 0.0
            slices.append(_slice(name, n, drop, half))
        able = [s for s in slices if s.n >= 30]
        worst = max(able, key=lambda s: s.shrunk_drop)
        outcomes = tuple(self._outcome(i, truth) for i in range(80)) if number else ()
        return Evaluation(
            artifact=digest(number), dataset=dataset, dataset_digest=digest(dataset), metric="accuracy", target="local",
            n=slices[0].n, slices=tuple(slices), worst_slice=worst.name, worst_drop=worst.drop, limit=0.01,
            outcomes=outcomes, seconds=6.4,
        )  # fmt: skip

    def _outcome(self, index: int, truth: float) -> Outcome:
        text = ANSWERS[index % len(ANSWERS)]
        wrong = text.replace("i", "l", 1).replace("0", "O", 1).replace("e", "c", 1)
        kind = self.random.random()
        before, after = (text, text) if kind > 0.3 else (text, wrong) if kind > 0.1 else (wrong, text)
        return Outcome(
            id=f"sample-{index:03d}", original=before, candidate=after, original_score=1.0 if before == text else 0.0,
            candidate_score=1.0 if after == text else 0.0,
        )  # fmt: skip

    def _metrics(self, decisions: Mapping[str, str], measured: Measurement, judged: Evaluation) -> dict[str, Value]:
        assert measured.ratio and measured.latency and measured.memory
        return {
            "size_bytes": Value.exact(size(decisions)),
            "latency_ratio@local": Value(**measured.ratio.estimate.model_dump()),
            "latency_p50@local": Value(**measured.latency.median.model_dump()),
            "memory_peak@local": Value.exact(measured.memory.peak),
            "accuracy/all": Value(**judged.slices[0].candidate.model_dump()),
            "drop/worst": Value(**judged.worst_drop.model_dump()),
        }

    def _outcomes(self, number: int, decisions: Mapping[str, str]) -> tuple[LayerOutcome, ...]:
        ran = {"int8-static": "QLinearConv", "int8-dynamic": "MatMulInteger", "w4-b32": "MatMulNBits 4 bit"}
        outcomes = []
        for name, op, parameters in LAYERS:
            choice = decisions.get(name, "none")
            honoured = not (number == 4 and name == "neck.conv_out")
            outcomes.append(
                LayerOutcome(
                    layer=name, asked=choice, ran=ran.get(choice, f"{op} float32") if honoured else f"{op} float32",
                    honoured=honoured, seconds=seconds(parameters) * FASTER[choice],
                    note="" if honoured else "no integer kernel for this shape",
                )
            )  # fmt: skip
        return tuple(outcomes)


def _slice(name: str, n: int, drop: float, half: float) -> SliceResult:
    value = Estimate(value=drop, low=drop - half, high=drop + half)
    verdict = (
        "insufficient" if n < 30 else "pass" if value.high <= 0.01 else "fail" if value.low > 0.01 else "undecided"
    )
    worse = round(max(drop, 0.0) * n) + 2
    return SliceResult(
        name=name, n=n, original=Estimate(value=0.942, low=0.93, high=0.95),
        candidate=Estimate(value=0.942 - drop, low=0.92 - drop, high=0.95 - drop), drop=value,
        shrunk_drop=drop * n / (n + 50), flips_worse=worse if drop else 0, flips_better=2 if drop else 0, p_value=0.04,
        verdict=verdict, needed=int(n * 1.7) if verdict == "undecided" else None,
    )  # fmt: skip


def size(decisions: Mapping[str, str]) -> int:
    return int(sum(p * BITS[decisions.get(n, "none")] / 8 for n, _, p in LAYERS)) + 90_000


def seconds(parameters: int) -> float:
    return 0.0001 + 0.0000017 * parameters**0.6


def digest(what: object) -> str:
    return hashlib.sha256(str(what).encode()).hexdigest()


def picture(seed: int, width: int = 96, height: int = 24) -> bytes:
    """A small grey PNG of blocks, written by hand."""
    rows = np.full((height, width), 250, np.uint8)
    rows[6:18] = np.where(np.random.default_rng(seed).random(width // 3).repeat(3) < 0.5, 40, 250)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def build_study(*, hard: bool = False, finalists: bool = True, trials: int = 24) -> StudyBuilder:
    """The baseline, the uniform recipes, `trials` searched ones with rejected and failed among them."""
    study = StudyBuilder(hard=hard)
    names = [name for name, _, _ in LAYERS]
    study.add({}, "baseline")
    for choice in list(BITS)[1:]:
        study.add(dict.fromkeys(names, choice), f"uniform {choice}")
    mixes = (("none", "w8-load", "float16"), ("w8-load", "int8-dynamic"), ("int8-dynamic", "w4-b32", "w8-load"),
             ("w4-b32", "int8-static", "int8-dynamic"))  # fmt: skip
    for index in range(trials):
        mix = mixes[index % len(mixes)]
        decisions = {name: str(study.random.choice(mix)) for name in names}
        if index > trials // 3:
            decisions.update({name: "none" if name != "head.ctc.fc" else "w8-load" for name in TENDER})
        proposer = "surrogate" if index % 6 else "random"
        if index in (3, 9):
            study.reject(decisions, "drop/worst is 0.083 on the probe, the limit is 0.01")
        elif index == 7:
            study.fail(
                decisions,
                Failure(kind="timeout", stage="latency", message="model ran for 120 s; raise timeout"),
            )
        else:
            study.add(
                decisions,
                proposer,
                final=finalists and not hard and index in (trials - 2, trials - 3, trials - 6, trials - 7),
            )
    return study


@pytest.fixture(scope="session")
def study() -> StudyBuilder:
    """A search that found something good."""
    return build_study()


@pytest.fixture(scope="session")
def make_study() -> Callable[..., StudyBuilder]:
    """`build_study`, for tests that want another kind of study."""
    return build_study


@pytest.fixture(scope="session")
def make_store() -> type[FakeStore]:
    return FakeStore
