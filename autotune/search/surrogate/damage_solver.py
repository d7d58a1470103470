"""Maximum a posteriori of the damage terms: Gauss-Newton with conjugate gradients inside, scales by evidence.

Two phases. Far from the solution the residuals are those of log damage, without interactions. Near it they are those
of the damage itself, in units (n, S) of about its size: there interactions add, and a configuration in which they
happen to cancel the rest (a damage of about 0, whose logarithm says anything) is an ordinary measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from autotune.search.surrogate.covariance import inverse
from autotune.search.surrogate.damage_terms import Layout, Scales, Terms
from autotune.search.surrogate.evidence import fit_amplitudes
from autotune.search.surrogate.interactions import Magnitudes, Weights, kernels, posterior_weights
from autotune.search.surrogate.space import Floats, Ints

FLOOR = 0.01  # share of the largest drop that acts as a noise floor where drops stand in for damage
EVIDENCE_ROWS = 200
EVIDENCE_SLICES = 6
CANCELLED = 0.2  # of what the other slices say: damage below it has cancelled out, its logarithm is cut off there
CANCELLED_OF_TWO = 0.02  # the same where there are fewer than three slices, whose median says less
LEAST_UNIT = 0.2  # of the additive damage
STEPS = 40  # of conjugate gradients per Gauss-Newton step
MANY_TERMS, FEW_STEPS = 2000, 20  # from so many terms on a step is solved roughly: it is one of several


class Solver:
    """One least-squares problem: configurations (n, L) and values (n, S), with scales that can be learnt."""

    def __init__(
        self, layout: Layout, configs: Ints, values: Floats, *, relative: bool, scales: Scales, edges: Ints
    ) -> None:
        self.layout, self.configs, self.values, self.relative, self.scales = layout, configs, values, relative, scales
        self.edges = edges
        self.nodes = layout.space.nodes(configs)
        self.floor = FLOOR * float(np.nanmax(np.abs(values), initial=0.0)) + 1e-12
        self.log_values = np.log(np.maximum(values, self._least())) if relative and len(values) else values
        self.unit: Floats | None = None
        self.magnitudes: tuple[Magnitudes, ...] = ()  # by choice, by damage
        self._kernels: list[list[tuple[Floats, Floats]]] = []  # per kind of magnitude and slice: near and far
        self._inverse: Floats | None = None
        self._flat: NDArray[np.int32] | None = None

    def _least(self) -> Floats:
        """(n, S): damages below this are taken for cancelled ones while logarithms are fitted."""
        mean = np.maximum(self.values.mean(0), 1e-300)
        cancelled = CANCELLED if self.values.shape[1] > 2 else CANCELLED_OF_TWO
        return np.asarray(np.maximum(cancelled * np.median(self.values / mean, axis=1)[:, None], 1e-5) * mean)

    # phases --------------------------------------------------------------------------------------------------------
    def enter(self, terms: Terms, joint: Floats | None = None) -> None:
        """Residuals from now on in units of the damage predicted by `terms` and, (n, S), by interactions."""
        self._inverse = None
        total = self.layout.table(self.scales, terms)[self.nodes].sum(1)
        expected = total if joint is None else total + joint
        if self.relative:
            slack = 2.0 if joint is None else 1.3
            near = np.clip(expected, self.values / slack, np.maximum(self.values, 0) * slack)
            self.unit = np.maximum(near, np.maximum(LEAST_UNIT * total, 1e-300))
        else:
            self.unit = np.maximum(expected, self.floor)

    def interact(self, magnitudes: tuple[Magnitudes, ...]) -> None:
        """Interactions take part from now on; `unit` must have been entered."""
        self.magnitudes = magnitudes
        self._kernels = [
            [kernels(rows, self.edges) for rows in m.rows(self.layout.space, self.configs)] for m in magnitudes
        ]
        self._inverse = None

    def _joint_covariance(self, s: int) -> Floats:
        """(n, n) of the interactions in slice `s`, relative to the units."""
        assert self.unit is not None
        total = np.zeros((len(self.configs),) * 2)
        for sd, part in zip(self._sds, self._parts(s), strict=True):
            total += sd**2 * part
        return total / np.outer(self.unit[:, s], self.unit[:, s])

    def _parts(self, s: int) -> list[Floats]:
        """Kernels (n, n) in slice `s`, in units of damage: near and far by choice, near and far by damage."""
        found = []
        for magnitudes, of_slices in zip(self.magnitudes, self._kernels, strict=True):
            size = magnitudes.scale[s] ** 4  # products of two magnitudes, of two configurations
            found += [size * part for part in of_slices[min(s, len(of_slices) - 1)]]
        return found

    def joint(self, terms: Terms) -> Floats | None:
        """Posterior mean (n, S) of the damage by interactions, of the configurations themselves."""
        if not self._kernels or self.unit is None:
            return None
        pull = self._pull(terms)
        total = np.empty_like(pull)
        for s in range(pull.shape[1]):
            total[:, s] = sum(sd**2 * (part @ pull[:, s]) for sd, part in zip(self._sds, self._parts(s), strict=True))
        return total

    @property
    def _sds(self) -> tuple[float, ...]:
        """Scales of the interactions, in the order of `_parts`."""
        scales = self.scales
        return scales.near_choice, scales.far_choice, scales.near_damage, scales.far_damage

    def _pull(self, terms: Terms) -> Floats:
        """(n, S): the solved residuals per unit of damage."""
        assert self.unit is not None
        residual, _, noise = self.evaluate(terms)
        return np.asarray(_apply(self.precision(noise), residual) / self.unit)

    # residuals -----------------------------------------------------------------------------------------------------
    def evaluate(self, terms: Terms) -> tuple[Floats, Floats, Floats]:
        """Residuals (n, S), their slopes (n, L, S) in the log damage of each layer, and the scale (n, S) of the noise
        variance."""
        parts = self.layout.table(self.scales, terms)[self.nodes]
        total = np.maximum(parts.sum(1), 1e-300)
        if self.relative and self.unit is None:
            return np.clip(self.log_values - np.log(total), -6, 6), parts / total[:, None], np.ones_like(total)
        assert self.unit is not None
        noise = np.ones_like(total) if self.relative else (self.unit + self.floor) / self.unit**2
        return (self.values - total) / self.unit, parts / self.unit[:, None], noise

    def precision(self, noise: Floats) -> Floats:
        """Inverse covariances (1 or S, n, n) of the residuals: noise plus interactions. Kept until `enter`."""
        if self._inverse is None:
            self._inverse = self._inverted(noise)
        return self._inverse

    def _inverted(self, noise: Floats) -> Floats:
        n, slices = noise.shape
        if not self._kernels and self.relative:
            return np.asarray(np.eye(n)[None] / self.scales.noise**2)
        inverses = np.empty((slices, n, n))
        for s in range(slices):
            covariance = np.diag(self.scales.noise**2 * noise[:, s])
            if self._kernels:
                covariance += self._joint_covariance(s)
            inverses[s] = inverse(covariance)
        return inverses

    def solve(self, terms: Terms, *, steps: int) -> Terms:
        """Gauss-Newton with a halving line search."""
        if not len(self.configs):
            return terms
        theta = terms.pack()
        residual, share, noise = self.evaluate(terms)
        inverse = self.precision(noise)
        for _ in range(steps):
            step = self._newton_step(theta, residual, share, inverse)
            before = self._objective(theta, residual, inverse)
            size = min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
            for _ in range(6):
                trial = self.layout.unpack(theta + size * step)
                residual, share, noise = self.evaluate(trial)
                if self._objective(theta + size * step, residual, inverse) <= before:
                    break
                size /= 2
            theta = theta + size * step
            if float(np.abs(size * step).max()) < 0.02:
                break
        return self.layout.unpack(theta)

    def _objective(self, theta: Floats, residual: Floats, inverse: Floats) -> float:
        return 0.5 * float(theta @ theta) + 0.5 * float((residual * _apply(inverse, residual)).sum())

    def _newton_step(self, theta: Floats, residual: Floats, share: Floats, inverse: Floats) -> Floats:
        layout, scales = self.layout, self.scales
        n, layers, slices = share.shape
        starts = np.arange(0, n * layers * slices + 1, layers)
        slope = sparse.csr_matrix((share.transpose(0, 2, 1).ravel(), self._columns(slices), starts),
                                  shape=(n * slices, len(layout.alive) * slices))  # fmt: skip
        across = slope.T

        def forward(vector: Floats) -> Floats:
            return np.asarray(slope @ layout.spread(scales, layout.unpack(vector)).ravel()).reshape(n, slices)

        def backward(rows: Floats) -> Floats:
            return layout.collect(scales, np.asarray(across @ rows.ravel()).reshape(-1, slices))

        gradient = backward(_apply(inverse, residual)) - theta
        steps = STEPS if len(theta) <= MANY_TERMS else FEW_STEPS
        return _conjugate_gradients(lambda v: v + backward(_apply(inverse, forward(v))), gradient, steps=steps)

    def _columns(self, slices: int) -> NDArray[np.int32]:
        """Columns of the slopes of all slices in one sparse matrix: row by row (n, S), its L layers."""
        if self._flat is None:
            self._flat = (self.nodes[:, None, :] * slices + np.arange(slices)[:, None]).astype(np.int32).ravel()
        return self._flat

    # results -------------------------------------------------------------------------------------------------------
    def weights(self, terms: Terms) -> tuple[Weights, ...]:
        """Posterior mean of the interactions, per kind of magnitude."""
        if not self._kernels or self.unit is None:
            return ()
        pull, space = self._pull(terms), self.layout.space
        return tuple(
            posterior_weights(m, m.rows(space, self.configs), self.edges, pull, near, far)
            for m, near, far in zip(self.magnitudes, self._sds[::2], self._sds[1::2], strict=True)
        )

    def learn_scales(self, terms: Terms) -> None:
        """Prior scales by marginal likelihood of the model linearised at `terms`, slices taken as independent."""
        if len(self.configs) < 8:
            return
        layout, scales = self.layout, self.scales
        rows = slice(max(0, len(self.configs) - EVIDENCE_ROWS), None)
        residual, share, noise = self.evaluate(terms)
        change = layout.spread(scales, terms)[self.nodes]
        target = (residual + np.einsum("nls,nls->ns", share, change))[rows]
        share, nodes, noise = share[rows], self.nodes[rows], noise[rows]
        n = len(target)
        chosen = range(min(target.shape[1], EVIDENCE_SLICES))
        kernels_of = []
        for s in chosen:
            weight = np.zeros((n, layout.alive.size))
            np.put_along_axis(weight, nodes, share[:, :, s], axis=1)
            weight *= layout.alive
            label = np.zeros((n, len(layout.space.label_names)))
            np.add.at(label.T, layout.label_of, weight.T)
            level = share[:, :, s].sum(1)
            parts = [np.outer(level, level), label @ label.T, share[:, :, s] @ share[:, :, s].T, weight @ weight.T]
            if layout.guess is not None:
                guessed = weight @ layout.guess[:, s]
                parts.append(np.outer(guessed, guessed))
            if self._kernels:
                assert self.unit is not None
                unit = self.unit[rows, s]
                parts += [part[rows, rows] / np.outer(unit, unit) for part in self._parts(s)]
            kernels_of.append(parts)
        layer = float(np.hypot(scales.layer, scales.private))
        default = Scales()
        names = ["level", "label", "layer", "node"] + ["guess"] * (layout.guess is not None)
        names += ["near_choice", "far_choice", "near_damage", "far_damage"] if self._kernels else []
        start = [layer if name == "layer" else getattr(default, name) for name in names]
        start.append(default.noise if self.relative else 0.05)
        found, _ = fit_amplitudes(kernels_of, [target[:, s] for s in chosen], np.array(start),
                                  noise=[noise[:, s] for s in chosen], steps=15)  # fmt: skip
        learnt = dict(zip(names, map(float, found), strict=False))
        factor = learnt.pop("layer") / layer
        self._inverse = None
        self.scales = replace(scales, **learnt, layer=scales.layer * factor, private=scales.private * factor,
                              noise=float(found[-1]))  # fmt: skip


def _apply(inverse: Floats, rows: Floats) -> Floats:
    """Inverse covariances (1 or S, n, n) times residuals (n, S)."""
    if len(inverse) == 1:
        return np.asarray(inverse[0] @ rows)
    return np.asarray((inverse @ rows.T[:, :, None])[:, :, 0].T)


def _conjugate_gradients(
    apply: Callable[[Floats], Floats], right: Floats, *, steps: int, tolerance: float = 3e-3
) -> Floats:
    solution = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    norm = float(residual @ residual)
    target = tolerance**2 * norm
    for _ in range(steps):
        if norm <= target or norm == 0.0:
            break
        product = apply(direction)
        size = norm / float(direction @ product)
        solution += size * direction
        residual -= size * product
        following = float(residual @ residual)
        direction = residual + (following / norm) * direction
        norm = following
    return solution
