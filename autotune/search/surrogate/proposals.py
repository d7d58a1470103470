"""Which configurations to measure next: sweep, mutate, pick by hypervolume improvement, climb."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.search.surrogate.front import Improvement, non_dominated
from autotune.search.surrogate.model import Fitted
from autotune.search.surrogate.space import Bools, Floats, Ints, Space, distinct
from autotune.search.surrogate.sweep import DIRECTIONS, sweep

MUTANTS = 300
ROUNDS = 14  # of hill climbing per proposal
SINGLES = 250  # single changes tried per round, all of them in small spaces
DOUBLES = 80
RUNS = 60
CROSSED = 40
STARTS = 2
LARGE = 1000  # layers x slices from which on one start must do, and neighbours are ranked roughly at first
FEWER_DIRECTIONS = 80  # of the sweep, there
CHECKED = 24  # of the neighbours ranked roughly are predicted in full
BASES = 4  # settings of the outer parameters on the front that a sweep is made for, and as many new ones
SMALL = 4096  # a space of up to so many configurations is searched completely


@dataclass
class Proposer:
    """Proposes from one fit. `measured` (n, L) are the configurations with known objectives, `taken` the keys of
    everything that must not be proposed."""

    fitted: Fitted
    measured: Ints
    reference: Floats
    taken: set[bytes]
    rng: np.random.Generator

    def propose(self, count: int, *, explore: int = 0) -> Ints:
        """`count` new configurations (count, L), the last `explore` of them chosen for what they would teach."""
        space = self.fitted.space
        known = self.fitted.predict(self.measured)  # smoothed values, never the noisy measurements
        on_front = non_dominated(known)
        directions = FEWER_DIRECTIONS if self._large else DIRECTIONS
        if space.log_size <= np.log(SMALL):
            pool = every(space)
        else:
            bases = self._bases(self.measured[on_front])
            each = -(-directions // len(bases))
            swept = [sweep(self.fitted.under(base), self.reference, self.rng, directions=each) for base in bases]
            pool = np.concatenate([*swept, self._mutants(self.measured[on_front])])
        pool = self._fresh(distinct(pool), self.taken)
        values = self.fitted.predict(pool)
        improvement = Improvement(known[on_front], values, self.reference, self.rng)
        chosen: list[Ints] = []
        taken = set(self.taken)
        for _ in range(count - explore):
            pick = self._climb(pool, values, improvement, taken)
            if pick is None:
                break
            chosen.append(pick)
            taken.add(pick.tobytes())
            improvement.add(self.fitted.predict(pick[None])[0])
        while len(chosen) < count:
            pick = self._curious(pool, taken, improvement)
            if pick is None:
                break
            chosen.append(pick)
            taken.add(pick.tobytes())
        return np.array(chosen, np.int64).reshape(len(chosen), len(space))

    @property
    def _large(self) -> bool:
        slices = 1 if self.fitted.damage is None else self.fitted.damage.table.shape[2]
        return len(self.fitted.space) * slices > LARGE

    def _bases(self, front: Ints) -> Ints:
        """Settings of the outer parameters, as configurations (n, L): of the front, and with one of them changed."""
        space = self.fitted.space
        if not len(space.outer):
            return front[:1]
        known = space.structures(self.rng.permutation(front))[:BASES]
        changed = known[self.rng.integers(0, len(known), BASES)].copy()
        for row in changed:
            parameter = self.rng.choice(space.outer)
            row[parameter] = self.rng.integers(0, space.counts[parameter])
        return space.structures(np.concatenate([known, changed]))

    def _fresh(self, configs: Ints, taken: set[bytes]) -> Ints:
        return configs[self._are_fresh(configs, taken)]

    def _are_fresh(self, configs: Ints, taken: set[bytes]) -> Bools:
        return np.array([row.tobytes() not in taken for row in configs], bool)

    def _mutants(self, parents: Ints) -> Ints:
        """Random changes of 1 to 4 parameters, half of them on top of a crossover."""
        space, rng = self.fitted.space, self.rng
        children = parents[rng.integers(0, len(parents), MUTANTS)]
        other = parents[rng.integers(0, len(parents), MUTANTS)]
        cut = np.sort(rng.integers(0, len(space) + 1, (MUTANTS, 2)), axis=1)
        at = np.arange(len(space))
        inside = (at >= cut[:, :1]) & (at < cut[:, 1:]) & (rng.random((MUTANTS, 1)) < 0.5)
        children = np.where(inside, other, children)
        changes = rng.random(children.shape) < rng.integers(1, 5, (MUTANTS, 1)) / len(space)
        return np.where(changes, space.random(rng, MUTANTS), children)

    def _climb(self, pool: Ints, values: Floats, improvement: Improvement, taken: set[bytes]) -> Ints | None:
        """The best of the pool with its predicted `values` (m, M), climbed over single and double changes, runs and
        crossovers."""
        keep = self._are_fresh(pool, taken)
        fresh = pool[keep]
        if not len(fresh):
            return None
        gains = improvement.of(values[keep])
        if gains.max() <= 0:
            return None
        best: tuple[float, Ints] | None = None
        starts = 1 if self._large else STARTS
        for start in np.argsort(-gains, kind="stable")[:starts]:
            config, gain = fresh[start], float(gains[start])
            for _ in range(ROUNDS):
                near = self._fresh(neighbours(self.fitted.space, config, fresh, self.rng), taken)
                if not len(near):
                    break
                if self._large:
                    roughly = improvement.of(self.fitted.predict_near(config, near))
                    near = near[np.argsort(-roughly, kind="stable")[:CHECKED]]
                found = improvement.of(self.fitted.predict(near))
                if found.max() <= gain * (1 + 1e-6):
                    break
                config, gain = near[found.argmax()], float(found.max())
            if best is None or gain > best[0]:
                best = gain, config
        return None if best is None else best[1]

    def _curious(self, pool: Ints, taken: set[bytes], improvement: Improvement) -> Ints | None:
        """Near the front, but with choices that were seldom measured."""
        fresh = self._fresh(pool, taken)
        if not len(fresh):
            return None
        space = self.fitted.space
        seen = np.bincount(space.nodes(self.measured).ravel(), minlength=space.labels.size)
        novelty = (1 / np.sqrt(1 + seen))[space.nodes(fresh)].sum(1)
        values = self.fitted.predict(fresh)
        useful = (values < self.reference).all(1)
        near = improvement.of(values * 0.97 + 0.03 * values.min(0)) > 0
        return np.asarray(fresh[np.argmax(novelty + 10.0 * useful + 10.0 * near)], np.int64)


def every(space: Space) -> Ints:
    """All configurations (prod K, L) of a small space."""
    axes = np.meshgrid(*[np.arange(k) for k in space.counts], indexing="ij")
    return np.stack([axis.ravel() for axis in axes], 1).astype(np.int64)


def untried(space: Space, seen: set[bytes], rng: np.random.Generator) -> Ints:
    """A random configuration (L,) that is not in `seen`; any one where the space is exhausted."""
    if space.log_size <= np.log(SMALL):
        left = [config for config in every(space) if config.tobytes() not in seen]
        return np.asarray(left[int(rng.integers(len(left)))] if left else space.random(rng, 1)[0], np.int64)
    while True:  # more than SMALL configurations, far fewer seen: ends at once
        config = space.random(rng, 1)[0]
        if config.tobytes() not in seen:
            return np.asarray(config, np.int64)


def neighbours(space: Space, config: Ints, others: Ints, rng: np.random.Generator) -> Ints:
    """Configurations (m, L) near `config` (L,): changes of one or two parameters, runs of 2 to 4 set alike, windows
    taken from `others`."""
    layers = len(space)
    rows, choices = np.nonzero(space.valid)
    other = choices != config[rows]
    rows, choices = rows[other], choices[other]
    if len(rows) > SINGLES:
        some = rng.permutation(len(rows))[:SINGLES]
        singles = _changed(config, rows[some][:, None], choices[some][:, None])
    else:
        singles = _changed(config, rows[:, None], choices[:, None])
    pick = rng.integers(0, len(rows), (DOUBLES, 2))
    doubles = _changed(config, rows[pick], choices[pick])
    found = [singles, doubles]
    if layers > 2:
        found.append(_runs(space, config, rng))
    source = others[rng.integers(0, len(others), CROSSED)]
    cut = np.sort(rng.integers(0, layers + 1, (CROSSED, 2)), axis=1)
    at = np.arange(layers)
    found.append(np.where((at >= cut[:, :1]) & (at < cut[:, 1:]), source, config))
    near = distinct(np.concatenate(found))
    return np.asarray(near[(near != config).any(1)], np.int64)


def _changed(config: Ints, rows: Ints, choices: Ints) -> Ints:
    configs = np.repeat(config[None], len(rows), axis=0)
    np.put_along_axis(configs, rows, choices, axis=1)
    return configs


def _runs(space: Space, config: Ints, rng: np.random.Generator) -> Ints:
    """Windows of 2 to 4 neighbours that all take the label of one of the window's choices, where they have it."""
    configs = np.repeat(config[None], RUNS, axis=0)
    for row in configs:
        length = int(rng.integers(2, 5))
        start = int(rng.integers(0, max(len(space) - length, 0) + 1))
        window = np.arange(start, min(start + length, len(space)))
        own = space.labels[window[0]]
        label = own[own >= 0][int(rng.integers(0, int((own >= 0).sum())))]
        for l in window:  # noqa: E741
            same = np.flatnonzero(space.labels[l] == label)
            if len(same):
                row[l] = same[0]
    return configs
