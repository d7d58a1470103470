"""Technique `factorize`: one large product becomes two small ones.

| choice | rank of the two factors |
|---|---|
| rank-25%, rank-50%, rank-75% | that share of min(inputs, outputs), to a multiple of `round_to` |

A product y = W x becomes y = B (A x). A k x k convolution becomes a k x k convolution to `rank` channels, which keeps
stride, padding and dilation, and a 1 x 1 convolution to the outputs, which has the bias. A choice that would not make
the layer smaller is not offered.

Among all W_r of the rank, `activation` takes the one with the least E |W x - W_r x|^2 on the calibration data, as
SVD-LLM (arXiv 2403.07378) and ASVD (arXiv 2312.05821) aim at: with G = E x xᵀ it is U Uᵀ W, U the leading eigenvectors
of W G Wᵀ. No inverse is needed. A ridge of `RIDGE` times the mean of G's diagonal orders what the data never show.
`plain` takes the least |W - W_r|^2, the truncated SVD (G = I).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NoReturn, get_args

import numpy as np
import onnx
from onnx import helper
from scipy.linalg import eigh

from autotune.errors import TrialFailure, UsageError
from autotune.layers import Layer, Skipped
from autotune.techniques import shares as share
from autotune.techniques.matrices import as_matrix, from_matrix
from autotune.techniques.protocol import Calibration, Capabilities, Plan, Stage
from hwprofiles.errors import Failure

VERSION = 2  # raise it when the numbers change: what the bank holds is then never read again
RIDGE = 1e-6
Method = Literal["activation", "plain"]

_PREFIX = "rank"
_SPATIAL = ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "group")  # what a 1 x 1 convolution has not


class Factorize:
    """See the module."""

    name = "factorize"
    stage: Stage = "factorize"
    scope: Literal["layer", "graph"] = "layer"
    calibration: Calibration | None = None

    def __init__(
        self, ranks: Sequence[float] = (0.25, 0.5, 0.75), round_to: int = 8, method: Method = "activation"
    ) -> None:
        """`ranks`: shares of min(inputs, outputs). Raises `UsageError` for impossible values."""
        if method not in get_args(Method):
            raise UsageError(f"technique factorize has no method {method!r}; known: {', '.join(get_args(Method))}")
        if not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1:
            raise UsageError(f"technique factorize: round_to is {round_to!r}; give a whole number from 1")
        self._ranks = share.checked(self.name, "ranks", ranks)
        self._round_to = round_to
        self._method = method
        self.needs_moments = method == "activation"

    def meaning(self) -> dict[str, str]:
        """What else, beside its name, says what a choice does to a model: a study must not change it on the way."""
        return {"method": self._method, "round_to": str(self._round_to)}

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        """Layers of the wrong kind, and those that no rank makes smaller."""
        reasons = ((layer, self._hindrance(layer)) for layer in plan.layers.values())
        return [Skipped(layer.name, layer.op, why, layer.parameters) for layer, why in reasons if why]

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        """The ranks that make the layer smaller; of several that round to one rank the first."""
        return () if _wrong_kind(layer) else tuple(self._smaller(layer))

    def lost(self, layer: Layer) -> Mapping[str, str]:
        """Choices that a layer does not have, and why."""
        offered, taken = self._smaller(layer), set(self._smaller(layer).values())
        found = {}
        for each in self._ranks:
            name, rank = share.named(_PREFIX, each), rank_of(layer, each, self._round_to)
            if name not in offered:
                same = "it rounds to the rank of another choice"
                found[name] = same if rank in taken else "two factors of that rank are no smaller than the layer"
        return found

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        """One recipe per choice, mildest first; a layer that does not have it stays whole."""
        labels = [share.named(_PREFIX, each) for each in reversed(self._ranks)]
        recipes = [(label, {layer: label for layer, each in offered.items() if label in each}) for label in labels]
        return [(label, decisions) for label, decisions in recipes if decisions]

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Split the layers; the parts are named `<layer>.down` and `<layer>.up`. A layer that pruning has made so small
        that two factors save nothing any more stays whole.

        Raises `UsageError` for a choice that is none, `TrialFailure` for a layer that cannot be split or would not
        become smaller, and where `activation` finds no moments.
        """
        for name, choice in decisions.items():
            wanted = share.parsed(_PREFIX, choice)
            if wanted is None:
                raise UsageError(f"technique factorize has no choice {choice!r}; give rank-P%, as rank-50%")
            for part in plan.parts.get(name, (name,)):
                layer = plan.layer(part)
                rank = rank_of(layer, wanted, self._round_to)
                if not _is_smaller(layer, rank) and _was_cut(plan, layer):
                    continue
                hindrance = _wrong_kind(layer) or ("" if _is_smaller(layer, rank) else f"rank {rank} saves nothing")
                if hindrance:
                    shape = " x ".join(map(str, layer.shape))
                    _fail(f"layer {part!r} is {layer.op} {shape} now and cannot be factorised to {choice}: {hindrance}")
                self._split(plan, layer, rank)

    def _split(self, plan: Plan, layer: Layer, rank: int) -> None:
        weight, moments = as_matrix(layer, plan.weight(layer))[0], plan.moments(layer.name)
        if self._method == "activation" and moments is None:
            _fail(
                f"layer {layer.name!r}: nothing is known about what it reads, and method activation needs that; give "
                "calibration data that reach it or set method = 'plain'"
            )
        used = moments if self._method == "activation" else None
        digest = used.digest if used is not None else ""
        # Every rank is a leading part of the same basis, so one entry, as wide as the largest, serves all choices.
        most = max([rank, *self._smaller(layer).values()])
        told = (layer.name, layer.shape, self._method, plan.weight_digest(layer), digest, most)
        gram = used.gram[0] if used is not None else None
        basis = plan.banked(("factorize", VERSION, RIDGE, *told), lambda: output_basis(weight, gram, most))
        up, down = factors(weight, basis["basis"], basis["energies"], rank)
        first, second = _parts(plan, layer, rank)
        plan.set_tensor(first.weight, from_matrix(first, down[None], first.shape))
        plan.set_tensor(second.weight, from_matrix(second, up[None], second.shape))
        _rewire(plan, layer, first, second)
        plan.split(layer.name, [first, second])
        plan.set_moments(layer.name, None)
        plan.set_moments(first.name, moments)
        plan.set_moments(second.name, moments.transform(down[None]) if moments is not None else None)

    def _smaller(self, layer: Layer) -> dict[str, int]:
        ranks: dict[int, str] = {}
        for each in self._ranks:
            rank = rank_of(layer, each, self._round_to)
            if _is_smaller(layer, rank):
                ranks.setdefault(rank, share.named(_PREFIX, each))
        return {name: rank for rank, name in ranks.items()}

    def _hindrance(self, layer: Layer) -> str:
        if reason := _wrong_kind(layer):
            return reason
        return "" if self._smaller(layer) else "two factors of any of the ranks are no smaller than it is"


def rank_of(layer: Layer, share_of_full: float, round_to: int) -> int:
    """The share of min(inputs, outputs), to the nearest multiple of `round_to`, at least one of it."""
    return max(1, round(share_of_full * min(_sizes(layer)) / round_to)) * round_to


def output_basis(weight: np.ndarray, gram: np.ndarray | None, most: int) -> dict[str, np.ndarray]:
    """`basis`: float32 `[outputs, most]` with orthonormal columns, such that the projection on the first r of them is
    the best approximation of `weight` `[outputs, inputs]` of rank r for inputs of second moment `gram` `[inputs,
    inputs]` (None: the identity). `energies`: float64 `[most]`, descending: what each adds to E |W x|^2. `most` is at
    most min(outputs, inputs).

    In float64, whose error is below every energy that `RIDGE` leaves; float32 would lose the small ones where a few
    directions have most of the energy, as in transformers. Only the eigenvectors that are used are computed (LAPACK's
    syevr): a quarter of them takes 0.7 of the time of all.
    """
    tall = weight.shape[0] > weight.shape[1]
    wide = weight.astype(np.float64)
    q: np.ndarray | None = None
    if tall:  # in the space of the weight's own columns: as small as it gets, and full rank is exact whatever gram is
        q, wide = np.linalg.qr(wide)
    energy = wide @ (wide.T if gram is None else _ridged(gram) @ wide.T)
    size = len(energy)
    # LAPACK wants columns first, reads one triangle only and overwrites it: 4096 x 4096 take 128 MiB.
    values, vectors = eigh(energy.T, subset_by_index=(size - most, size - 1), driver="evr", overwrite_a=True)
    leading = vectors[:, ::-1]
    return {
        "basis": (leading if q is None else q @ leading).astype(np.float32),
        "energies": np.maximum(values[::-1], 0),
    }


def _ridged(gram: np.ndarray) -> np.ndarray:
    """float64, with the ridge on the diagonal."""
    made = gram.astype(np.float64)
    # An input that is always 0 has no energy at all: then any ridge orders the directions as a plain SVD would.
    made[np.diag_indices_from(made)] += RIDGE * float(np.trace(made)) / len(made) or 1.0
    return made


def factors(weight: np.ndarray, basis: np.ndarray, energies: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(up `[outputs, rank]`, down `[rank, inputs]`), float32, from what `output_basis` returned.

    The channels between them are scaled so that both factors share the energies: their ranges then differ by the root
    of what they would, which is kinder to numeric formats with one scale for all of them.
    """
    leading = basis[:, :rank].astype(np.float64)
    sizes = np.sqrt(np.maximum(energies[:rank], 1e-12 * max(float(energies[0]), 1e-30)))
    balance = np.sqrt(sizes / sizes[0])
    up, down = leading * balance, (leading.T @ weight) / balance[:, None]
    return up.astype(np.float32), down.astype(np.float32)


def _parts(plan: Plan, layer: Layer, rank: int) -> tuple[Layer, Layer]:
    """The two layers; their weights are not there yet."""
    outputs, inputs = _sizes(layer)
    if layer.op == "Conv":
        first_shape = (rank, *layer.shape[1:])
        second_shape = (outputs, rank, *(1 for _ in layer.shape[2:]))
    else:
        first_shape = (rank, inputs) if layer.output_axis == 0 else (inputs, rank)
        second_shape = (outputs, rank) if layer.output_axis == 0 else (rank, outputs)
    made = []
    for which, shape, bias in (("down", first_shape, None), ("up", second_shape, layer.bias)):
        name = f"{layer.name}.{which}"
        while name in plan.layers:
            name += "+"
        made.append(
            replace(
                layer,
                name=name,
                nodes=tuple(f"{node}/{which}" for node in layer.nodes),
                weight=f"{name}/factor",
                shape=shape,
                parameters=int(np.prod(shape)),
                bias=bias,
            )
        )
    return made[0], made[1]


def _rewire(plan: Plan, layer: Layer, first: Layer, second: Layer) -> None:
    """Two nodes in the place of each of the layer's, all of them with the same two weights."""
    own = {name: index for index, name in enumerate(layer.nodes)}
    result: list[onnx.NodeProto] = []
    for node in plan.nodes:
        if node.name not in own:
            result.append(node)
            continue
        between = f"{node.output[0]}/down"
        down, up = onnx.NodeProto(), onnx.NodeProto()
        down.CopyFrom(node)
        down.name = first.nodes[own[node.name]]
        down.input[:] = [node.input[0], first.weight]
        down.output[:] = [between]
        up.CopyFrom(node)
        up.name = second.nodes[own[node.name]]
        up.input[:] = [between, second.weight, *node.input[2:]]
        if layer.op == "Conv":
            kept = [a for a in up.attribute if a.name not in _SPATIAL]
            del up.attribute[:]
            up.attribute.extend([*kept, helper.make_attribute("kernel_shape", [1] * (len(layer.shape) - 2))])
        result += [down, up]
    plan.nodes[:] = result


def _sizes(layer: Layer) -> tuple[int, int]:
    """(outputs, inputs)."""
    outputs = layer.shape[layer.output_axis]
    return outputs, layer.parameters // outputs


def _was_cut(plan: Plan, layer: Layer) -> bool:
    """Whether a decision before this one has made the layer smaller."""
    before = plan.was(layer.name)
    return before is not None and before.parameters > layer.parameters


def _is_smaller(layer: Layer, rank: int) -> bool:
    outputs, inputs = _sizes(layer)
    return rank * (outputs + inputs) < outputs * inputs


def _wrong_kind(layer: Layer) -> str:
    if layer.op == "Gather":
        return "a table is looked up, not multiplied"
    if layer.op == "ConvTranspose":
        return "transposed convolutions are not factorised"
    if layer.group != 1:
        return f"a convolution in {layer.group} groups has no full matrix to factorise"
    return ""


def _fail(message: str) -> NoReturn:
    raise TrialFailure(Failure(kind="unsupported", stage="build", message=message))
