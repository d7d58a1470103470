"""Products of matrices, and attention."""

from __future__ import annotations

import math

import torch

from autotune.recover.operators.node import Builder, Node, Operator, Tensor, Unsupported


def _gemm(node: Node) -> Operator:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    turn_a, turn_b = node.get("transA", 0), node.get("transB", 0)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.T if turn_a else a) @ (b.T if turn_b else b)
        product = product if alpha == 1.0 else product * alpha
        if c is None or beta == 0.0:
            return product
        return product + (c if beta == 1.0 else c * beta)

    return run


def _matmul(node: Node) -> Operator:
    return torch.matmul


def _fused_matmul(node: Node) -> Operator:
    """ONNX Runtime's FusedMatMul: alpha * A B with either transposed."""
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise Unsupported("transposed batches")
    alpha, turn_a, turn_b = node.get("alpha", 1.0), node.get("transA", 0), node.get("transB", 0)

    def run(a: Tensor, b: Tensor) -> Tensor:
        return torch.mul(torch.matmul(a.mT if turn_a else a, b.mT if turn_b else b), alpha)

    return run


def _einsum(node: Node) -> Operator:
    equation = node.get("equation").replace(" ", "")
    return lambda *tensors: torch.einsum(equation, *tensors)


def _attention(node: Node) -> Operator:
    """Attention of opset 23, without a cache of keys and values; fewer heads of keys are shared by groups."""
    node.only_first_output()
    if node.get("qk_matmul_output_mode", 0):
        raise Unsupported("its scores as an output")
    heads, kv_heads = node.get("q_num_heads"), node.get("kv_num_heads")
    scale, causal, cap = node.get("scale"), node.get("is_causal", 0), node.get("softcap", 0.0)
    if len([name for name in node.inputs if name]) > 4 or any(node.inputs[4:]):
        raise Unsupported("past keys and values")

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *_: None) -> Tensor:
        flat = q.dim() == 3
        if flat:
            q = q.reshape(*q.shape[:2], heads, -1).transpose(1, 2)
            k, v = (t.reshape(*t.shape[:2], kv_heads, -1).transpose(1, 2) for t in (k, v))
        if k.shape[1] != q.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        scores = q @ k.mT * (scale or 1 / math.sqrt(q.shape[-1]))
        if causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
            scores = scores.masked_fill(~seen, -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
        scores = torch.tanh(scores / cap) * cap if cap else scores
        y = torch.softmax(scores, dim=-1) @ v
        return y.transpose(1, 2).flatten(2) if flat else y

    return run


OPERATORS: dict[str, Builder] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Attention": _attention,
    "com.microsoft.FusedMatMul": _fused_matmul,
}
