"""Technique `sparsify`: weights that are exactly zero.

| choice | what is zero |
|---|---|
| zeros-50%, zeros-70%, zeros-80%, zeros-90% | that share of the layer's weights, wherever they are smallest |
| 2:4 | in every 4 adjacent inputs of an output all but 2 (N:M keeps N of M) |

"Smallest" is by `method`. `wanda` (Sun et al., arXiv 2306.11695) weighs each weight by what it is multiplied with,
|w| * sqrt(E x^2), and compares within each output. `magnitude` takes |w| and compares over the whole layer. Tables and
transposed convolutions have no moments, so under `wanda` too the magnitude decides there.

Where kernels use a pattern at all, a convolution's M neighbours are adjacent input channels at one place of the kernel;
so it is written here. ONNX Runtime's CPU kernels use no zeros: there this technique buys a smaller download and nothing
else (`sparsity_report`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from autotune.errors import TrialFailure, UsageError
from autotune.layers import Layer, Skipped
from autotune.techniques import shares as share
from autotune.techniques.matrices import as_matrix, from_matrix
from autotune.techniques.protocol import Calibration, Capabilities, Plan, Stage
from hwprofiles.errors import Failure

MIN_WEIGHTS = 256  # fewer are no gain in any currency
Method = Literal["wanda", "magnitude"]

_PRODUCTS = ("MatMul", "Gemm", "Conv")  # they have moments, and kernels for patterns exist for them
_PREFIX = "zeros"
_BLOCK = 1 << 20  # weights whose scores are looked at together
_DEAD = 1e-12  # of the liveliest input: weights of inputs that are always 0 go first, smallest first


class Sparsify:
    """See the module."""

    name = "sparsify"
    stage: Stage = "sparsify"
    scope: Literal["layer", "graph"] = "layer"
    calibration: Calibration | None = None

    def __init__(
        self,
        shares: Sequence[float] = (0.5, 0.7, 0.8, 0.9),
        patterns: Sequence[str] = ("2:4",),
        method: Method = "wanda",
    ) -> None:
        """`shares`: fractions of zeros. `patterns`: N:M with N < M. Raises `UsageError` for impossible ones."""
        if method not in get_args(Method):
            raise UsageError(f"technique sparsify has no method {method!r}; known: {', '.join(get_args(Method))}")
        if isinstance(patterns, str):
            raise UsageError(f"technique sparsify: patterns is {patterns!r}; give a list, such as ['2:4']")
        self._shares = share.checked(self.name, "shares", shares)
        self._patterns = {pattern: _checked_pattern(pattern, ": patterns has") for pattern in patterns}
        self._method = method
        self.needs_moments = method == "wanda"

    def meaning(self) -> dict[str, str]:
        """What else, beside its name, says what a choice does to a model: a study must not change it on the way."""
        return {"method": self._method}

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        """Layers too small to gain anything."""
        return [
            Skipped(
                layer.name,
                layer.op,
                f"has {layer.parameters} weights, and below {MIN_WEIGHTS} zeros gain nothing",
                layer.parameters,
            )
            for layer in plan.layers.values()
            if layer.parameters < MIN_WEIGHTS
        ]

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        """Every share, and the patterns that the layer's inputs are a multiple of."""
        if layer.parameters < MIN_WEIGHTS:
            return ()
        zeros = [share.named(_PREFIX, each) for each in self._shares]
        return (*zeros, *(name for name, (_, span) in self._patterns.items() if _divides(layer, span)))

    def lost(self, layer: Layer) -> Mapping[str, str]:
        """Choices that a layer does not have, and why."""
        return {
            name: f"what it reads is no multiple of {span}"
            if layer.op in _PRODUCTS
            else f"patterns are not for {layer.op}"
            for name, (_, span) in self._patterns.items()
            if not _divides(layer, span)
        }

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        """One recipe per choice; a layer that does not have it stays as it is."""
        labels = [*(share.named(_PREFIX, each) for each in self._shares), *self._patterns]
        recipes = [(label, {layer: label for layer, each in offered.items() if label in each}) for label in labels]
        return [(label, decisions) for label, decisions in recipes if decisions]

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Zero the smallest weights. A layer that was split is thinned out part by part.

        Raises `UsageError` for a choice that is none, `TrialFailure` where a pattern does not fit what the layer has
        become or `wanda` finds no moments.
        """
        for name, choice in decisions.items():
            for part in plan.parts.get(name, (name,)):
                self._thin_out(plan, plan.layer(part), choice)

    def _thin_out(self, plan: Plan, layer: Layer, choice: str) -> None:
        matrix = as_matrix(layer, plan.weight(layer))
        by_input = self._method == "wanda" and layer.op in _PRODUCTS
        liveliness = _liveliness(plan, layer) if by_input else np.ones((len(matrix), 1), np.float32)
        rows, length = matrix.shape[0] * matrix.shape[1], matrix.shape[2]
        wanted = share.parsed(_PREFIX, choice)
        if wanted is None:
            keep, span = _checked_pattern(choice)
            _check_fits(layer, keep, span)
            parts = [
                _by_pattern(scores, keep, span, length // _inputs(layer)) for scores in _scores(matrix, liveliness)
            ]
            chosen = np.concatenate(parts)
        elif by_input:
            chosen = _by_share(_scores(matrix, liveliness), rows, length, wanted)
        else:
            whole = np.concatenate([scores.reshape(-1) for scores in _scores(matrix, liveliness)])
            chosen = _by_share([whole[None]], 1, rows * length, wanted)
        plan.set_tensor(layer.weight, _without(plan, layer, chosen.reshape(matrix.shape)))


def _scores(matrix: np.ndarray, liveliness: np.ndarray) -> Iterator[np.ndarray]:
    """What each weight counts, float32 `[n, inputs]`: some rows at a time, which for a wide layer is all that memory
    should have to hold."""
    step = max(1, _BLOCK // matrix.shape[2])
    for group, live in zip(matrix, liveliness, strict=True):
        for begin in range(0, len(group), step):
            rows = group[begin : begin + step]
            scores = np.abs(rows, dtype=np.float32)
            scores *= live
            scores[rows == 0] = -1  # what is zero already counts first, so that no more is lost than promised
            yield scores


def _by_share(blocks: Iterable[np.ndarray], rows: int, length: int, wanted: float) -> np.ndarray:
    """bool `[rows, length]`: exactly round(wanted * rows * length) of the smallest scores, the same number in each row.

    `blocks` are the scores, some rows at a time. Where that is not a whole number per row, one more is taken from the
    rows where the next is smallest. Among equals the first is taken.
    """
    each, more = divmod(round(wanted * rows * length), rows)
    chosen = np.zeros((rows, length), bool)
    following, left = np.zeros(rows, np.intp), np.zeros(rows, np.float32)  # of each row: where the next is, its score
    begin = 0
    for scores in blocks:
        here = slice(begin, begin + len(scores))
        if each:
            limit = np.partition(scores, each - 1, axis=1)[:, each - 1 : each]
            equal = scores == limit
            taken = scores < limit
            room = each - taken.sum(axis=1, keepdims=True)
            chosen[here] = taken | equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room)
        if more:
            rest = np.where(chosen[here], np.float32(np.inf), scores)
            following[here] = rest.argmin(axis=1)
            left[here] = rest[np.arange(len(rest)), following[here]]
        begin += len(scores)
    if more:
        first = np.argsort(left, kind="stable")[:more]
        chosen[first, following[first]] = True
    return chosen


def _by_pattern(scores: np.ndarray, keep: int, span: int, kernel: int) -> np.ndarray:
    """bool like `scores` `[rows, inputs]`: all but `keep` of every `span` neighbours along the inputs, which have
    `kernel` weights each."""
    blocks = scores.reshape(len(scores), -1, span, kernel)
    order = np.argsort(blocks, axis=2, kind="stable")
    chosen = np.zeros(blocks.shape, bool)
    np.put_along_axis(chosen, order[:, :, : span - keep], True, axis=2)
    return chosen.reshape(scores.shape)


def _check_fits(layer: Layer, keep: int, span: int) -> None:
    if not _divides(layer, span):
        shape = " x ".join(map(str, layer.shape))
        message = f"layer {layer.name!r} is {layer.op} {shape} now; {keep}:{span} needs a multiple of {span} inputs"
        raise TrialFailure(Failure(kind="unsupported", stage="build", message=message))


def _without(plan: Plan, layer: Layer, chosen: np.ndarray) -> np.ndarray:
    """The layer's weight, float32 of `layer.shape`, with zeros where `chosen` (like `as_matrix`) is true."""
    weight = np.array(plan.weight(layer), np.float32, order="C")
    matrix = as_matrix(layer, weight)
    matrix[chosen] = 0
    return weight if np.shares_memory(matrix, weight) else from_matrix(layer, matrix, layer.shape)


def _liveliness(plan: Plan, layer: Layer) -> np.ndarray:
    """float32 `[groups, inputs]`: the root mean square of each input, relative to the largest."""
    moments = plan.moments(layer.name)
    if moments is None:
        message = (
            f"layer {layer.name!r}: nothing is known about what it reads, and method wanda needs that; give "
            "calibration data that reach it or set method = 'magnitude'"
        )
        raise TrialFailure(Failure(kind="unsupported", stage="build", message=message))
    sizes = np.sqrt(np.maximum(moments.squares.astype(np.float64), 0))
    largest = sizes.max()
    return (np.maximum(sizes / largest, _DEAD) if largest > 0 else np.ones_like(sizes)).astype(np.float32)


def _inputs(layer: Layer) -> int:
    """Input channels or features that one output reads."""
    return layer.shape[1] if layer.op == "Conv" else layer.parameters // layer.shape[layer.output_axis]


def _divides(layer: Layer, span: int) -> bool:
    return layer.op in _PRODUCTS and _inputs(layer) % span == 0


def _checked_pattern(pattern: str, but: str = " has no choice") -> tuple[int, int]:
    """(kept, of how many). Raises `UsageError`."""
    found = re.fullmatch(r"(\d+):(\d+)", str(pattern))
    kept, span = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < kept < span:
        shares = "" if but.startswith(":") else "zeros-P% or "
        raise UsageError(f"technique sparsify{but} {pattern!r}; give {shares}N:M with N below M, as 2:4")
    return kept, span
