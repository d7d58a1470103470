"""Batches: every sample once per epoch, one shape per batch, weights with their samples; and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UsageError
from autotune.recover.batching import Batches, joinable
from autotune.workload import Dataset, Sample
from tests.unit import zoo


def dataset(*lengths: int) -> Dataset:
    """Sample i is filled with i and has label i."""
    return Dataset(
        "made", [Sample(f"s{i}", {"x": np.full((1, n, 2), i, np.float32)}, i) for i, n in enumerate(lengths)]
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=20), st.integers(1, 6), st.booleans(), st.integers(0, 9))
def test_every_sample_comes_once_with_its_label_and_weight(
    lengths: list[int], size: int, shuffle: bool, seed: int
) -> None:
    weights = {f"s{i}": 1.0 + i for i in range(0, len(lengths), 2)}
    batches = Batches(dataset(*lengths), size, seed=seed, weights=weights, shuffle=shuffle)
    for _ in range(2):
        seen = []
        found = list(batches)
        assert len(found) == len(batches)
        for batch in found:
            assert 1 <= len(batch.labels) <= size and len({lengths[label] for label in batch.labels}) == 1
            assert batch.inputs["x"].shape == (len(batch.labels), lengths[batch.labels[0]], 2)
            assert [int(row[0, 0]) for row in batch.inputs["x"]] == list(batch.labels)
            assert batch.weights.tolist() == [1.0 + i if i % 2 == 0 else 1.0 for i in batch.labels]
            seen += batch.labels
        assert sorted(seen) == list(range(len(lengths)))


def test_epochs_differ_and_equal_seeds_do_not() -> None:
    data = dataset(*[1] * 50)
    one, other, third = Batches(data, 8, seed=3), Batches(data, 8, seed=3), Batches(data, 8, seed=4)
    first = [batch.labels for batch in one]
    assert first == [batch.labels for batch in other] != [batch.labels for batch in third]
    assert first != [batch.labels for batch in one]
    still = Batches(data, 8, shuffle=False)
    assert [b.labels for b in still] == [b.labels for b in still]


def test_a_sample_that_is_a_batch_already_stays_alone() -> None:
    samples = [Sample("a", {"x": np.zeros((3, 2))}, 0), Sample("b", {"x": np.zeros((3, 2))}, 1)]
    assert sorted(b.inputs["x"].shape for b in Batches(Dataset("d", samples), 8)) == [(3, 2), (3, 2)]


def test_models_of_fixed_size_take_one_sample_at_a_time() -> None:
    assert joinable(zoo.mlp()) and not joinable(zoo.lstm())
    assert [len(b.labels) for b in Batches(dataset(1, 1, 1), 8, joinable=joinable(zoo.lstm()))] == [1, 1, 1]


def test_bad_input_is_told() -> None:
    with pytest.raises(UsageError, match="no samples"):
        Batches(dataset(), 4)
    with pytest.raises(UsageError, match="batch is 0"):
        Batches(dataset(1), 0)
    with pytest.raises(UsageError, match=r"s0 \(-1\.0\)"):
        Batches(dataset(1), 1, weights={"s0": -1.0})
    with pytest.raises(UsageError, match="weight 0"):
        Batches(dataset(1), 1, weights={"s0": 0.0})


def test_settings_and_batches_load_no_torch() -> None:
    code = (
        "import sys, autotune, autotune.recover, autotune.recover.batching, autotune.recover.training;"
        "sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
