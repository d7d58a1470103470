"""Ranges from streamed statistics."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.compress.calibration import BINS, Range, collect, load, save
from autotune.errors import DataError


def _collect(*batches: np.ndarray) -> object:
    return collect(lambda: [{"x": batch} for batch in batches])


def test_extremes_and_counts_cover_all_batches() -> None:
    statistics = _collect(np.array([0.0, 1.0], np.float32), np.array([-3.0, 2.0], np.float32))["x"]
    assert (statistics.low, statistics.high) == (-3.0, 2.0)
    assert statistics.counts.sum() == 4 and len(statistics.counts) == BINS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_activation_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(DataError, match="'x'"):
        _collect(np.array([bad], np.float32))


def test_percentile_drops_the_outlier_and_minmax_keeps_it() -> None:
    values = np.append(np.random.default_rng(0).normal(size=100_000), 100.0).astype(np.float32)
    statistics = _collect(values)["x"]
    assert statistics.range("minmax").high == 100.0
    cut = statistics.range("percentile", 99.9)
    assert 2.5 < cut.high < 4.5 and -4.5 < cut.low < -2.5


def test_entropy_clips_a_long_tail_less_than_it_gains() -> None:
    rng = np.random.default_rng(1)
    values = np.append(rng.normal(size=200_000), rng.uniform(20, 60, 20)).astype(np.float32)
    statistics = _collect(values)["x"]
    chosen = statistics.range("entropy")
    assert chosen.high < 30
    everything = statistics.range("minmax")

    def error(r: Range) -> float:
        scale, zero = r.uint8()
        levels = np.clip(np.rint(values / scale) + float(zero), 0, 255)
        return float(np.square((levels - float(zero)) * scale - values)[np.abs(values) < 5].mean())

    assert error(chosen) < error(everything)


def test_entropy_keeps_a_range_without_tail() -> None:
    values = np.random.default_rng(2).uniform(-1, 1, 100_000).astype(np.float32)
    chosen = _collect(values)["x"].range("entropy")
    assert chosen.low < -0.9 and chosen.high > 0.9


def test_one_sided_data_stay_one_sided() -> None:
    values = np.abs(np.random.default_rng(3).normal(size=50_000)).astype(np.float32)
    for method in ("minmax", "percentile", "entropy"):
        found = _collect(values)["x"].range(method)
        assert found.low == 0.0
        assert found.uint8()[1] == 0


def test_zero_is_exact_in_every_range() -> None:
    for low, high in [(-1.0, 3.0), (0.0, 0.0), (2.0, 5.0), (-7.0, -2.0)]:
        found = Range(min(low, 0.0), max(high, 0.0))
        scale, zero = found.uint8()
        assert scale > 0 and 0 <= zero <= 255


def test_statistics_survive_the_disk_and_a_torn_file_is_not_believed(tmp_path) -> None:
    statistics = _collect(np.arange(10, dtype=np.float32))
    path = tmp_path / "c.json"
    save(statistics, path)
    again = load(path)
    assert again is not None and again["x"].high == 9.0
    path.write_text(path.read_text()[:50])
    assert load(path) is None
