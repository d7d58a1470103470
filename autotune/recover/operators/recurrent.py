"""Recurrent layers: LSTM and GRU with their default activations, in one or both directions."""

from __future__ import annotations

from collections.abc import Callable

import torch

from autotune.recover.operators.node import Builder, Node, Operator, Tensor, Unsupported


def _check(node: Node, defaults: list[str]) -> None:
    activations = node.get("activations")
    if activations and activations != defaults * (len(activations) // len(defaults)):
        raise Unsupported(f"activations {activations}")
    if node.get("clip") is not None:
        raise Unsupported("clip")
    if node.get("layout", 0):
        raise Unsupported("batch first")
    if node.get("input_forget", 0):
        raise Unsupported("coupled gates")
    if len(node.inputs) > 4 and node.inputs[4]:
        raise Unsupported("lengths of sequences")


def _run(
    node: Node,
    x: Tensor,
    directions: int,
    make: Callable[[int], tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]],
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Per direction: hidden states of all steps [steps, batch, hidden], and the last states."""
    backwards = node.get("direction", "forward") == "reverse"
    every, last = [], []
    for direction in range(directions):
        turn = backwards or direction == 1
        step, states = make(direction)
        seen = []
        for t in reversed(range(x.shape[0])) if turn else range(x.shape[0]):
            states = list(step(x[t], *states))
            seen.append(states[0])
        every.append(torch.stack(seen[::-1] if turn else seen))
        last.append(states)
    return every, last


def _lstm(node: Node) -> Operator:
    _check(node, ["Sigmoid", "Tanh", "Tanh"])
    if len(node.inputs) > 7 and node.inputs[7]:
        raise Unsupported("peepholes")
    hidden = node.get("hidden_size")

    def run(
        x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: None = None,
        h0: Tensor | None = None, c0: Tensor | None = None, peepholes: None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        zero = x.new_zeros(x.shape[1], hidden)

        def make(d: int) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
            bias = 0 if b is None else b[d, : 4 * hidden] + b[d, 4 * hidden :]

            def step(now: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
                i, o, f, g = (now @ w[d].T + h @ r[d].T + bias).chunk(4, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                return torch.sigmoid(o) * torch.tanh(c), c

            return step, [zero if h0 is None else h0[d], zero if c0 is None else c0[d]]

        every, last = _run(node, x, w.shape[0], make)
        return torch.stack(every, dim=1), torch.stack([s[0] for s in last]), torch.stack([s[1] for s in last])

    return run


def _gru(node: Node) -> Operator:
    _check(node, ["Sigmoid", "Tanh"])
    hidden, late = node.get("hidden_size"), node.get("linear_before_reset", 0)

    def run(
        x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: None = None, h0: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        zero = x.new_zeros(x.shape[1], hidden)

        def make(d: int) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
            both = x.new_zeros(6 * hidden) if b is None else b[d]
            wz, wr, wh = w[d].chunk(3)
            rz, rr, rh = r[d].chunk(3)
            bz, br, bh, cz, cr, ch = both.chunk(6)

            def step(now: Tensor, h: Tensor) -> tuple[Tensor, ...]:
                z = torch.sigmoid(now @ wz.T + h @ rz.T + bz + cz)
                reset = torch.sigmoid(now @ wr.T + h @ rr.T + br + cr)
                inner = reset * (h @ rh.T + ch) if late else (reset * h) @ rh.T + ch
                return ((1 - z) * torch.tanh(now @ wh.T + inner + bh) + z * h,)

            return step, [zero if h0 is None else h0[d]]

        every, last = _run(node, x, w.shape[0], make)
        return torch.stack(every, dim=1), torch.stack([s[0] for s in last])

    return run


OPERATORS: dict[str, Builder] = {"LSTM": _lstm, "GRU": _gru}
