"""Covariances that rounding made singular are still factorised; those that are wrong are not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.linalg import LinAlgError

from autotune.search.surrogate.covariance import factorised, inverse


def test_the_inverse_is_numpys() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 30))
    covariance = rows @ rows.T
    np.testing.assert_allclose(inverse(covariance), np.linalg.inv(covariance), rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_repeated_observations_with_hardly_any_noise(scale: float) -> None:
    rng = np.random.default_rng(1)
    rows = np.repeat(rng.normal(size=(10, 4)), 3, axis=0)
    covariance = scale * (rows @ rows.T + 1e-18 * np.eye(30))
    with pytest.raises(LinAlgError):
        np.linalg.cholesky(covariance)
    target = rows @ rng.normal(size=4)
    np.testing.assert_allclose(covariance @ (inverse(covariance) @ target), target, atol=1e-3)


def test_what_is_no_covariance_is_refused() -> None:
    with pytest.raises(LinAlgError):
        factorised(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(LinAlgError, match="finite"):
        factorised(np.array([[1.0, np.nan], [np.nan, 1.0]]))
