"""Attention, feed-forward blocks, embeddings and shared weights of the zoo. Batch and sequence may have any size."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from autotune.compress.zoo.graph import Graph

_WIDTH, _HEADS, _HEAD = 32, 4, 8


def attention(opset: int) -> onnx.ModelProto:
    """Attention with four heads and a residual sum, in constant shapes: Reshape keeps batch and sequence by 0."""
    g = Graph(opset, x=("batch", "seq", _WIDTH))
    return g.model(g.add("Add", _attend(g, g.layer_norm("x", "norm", _WIDTH, fused=False), "attn"), "x"))


def attention_computed_shapes(opset: int) -> onnx.ModelProto:
    """The same attention as torch exports it when axes vary: the shapes are computed with Shape, Gather and Concat."""
    g = Graph(opset, x=("batch", "seq", _WIDTH))
    heads = [g.integers("heads", _HEADS), g.integers("head", _HEAD)]
    parts = {}
    for part in "qkv":
        y = g.linear("x", f"attn.{part}", _WIDTH, _WIDTH)
        parts[part] = g.add("Reshape", y, g.add("Concat", g.size(y, 0), g.size(y, 1), *heads, axis=0))
    q, v = (g.add("Transpose", parts[part], perm=[0, 2, 1, 3]) for part in "qv")
    mixed = _mix(g, q, g.add("Transpose", parts["k"], perm=[0, 2, 3, 1]), v)
    shape = g.add("Concat", g.size(mixed, 0), g.size(mixed, 1), g.integers("width", _WIDTH), axis=0)
    out = g.linear(g.add("Reshape", mixed, shape), "attn.out", _WIDTH, _WIDTH)
    return g.model(out, ("batch", "seq", _WIDTH))


def attention_one_projection(opset: int) -> onnx.ModelProto:
    """Queries, keys and values from one product, taken apart by Split, as in GPT-2."""
    g = Graph(opset, x=("batch", "seq", _WIDTH))
    q, k, v = g.split(g.linear("x", "attn.qkv", _WIDTH, 3 * _WIDTH), 2, _WIDTH, _WIDTH, _WIDTH)
    q, k, v = (g.reshape(part, 0, 0, _HEADS, _HEAD) for part in (q, k, v))
    q, v = (g.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    mixed = _mix(g, q, g.add("Transpose", k, perm=[0, 2, 3, 1]), v)
    return g.model(g.linear(g.reshape(mixed, 0, 0, _WIDTH), "attn.out", _WIDTH, _WIDTH))


def attention_grouped_queries(opset: int) -> onnx.ModelProto:
    """Four heads of queries share two of keys and values, which Expand repeats; no biases, as in a Llama."""
    g = Graph(opset, x=("batch", "seq", _WIDTH))
    x = g.rms_norm("x", "norm", _WIDTH)
    q = g.reshape(g.linear(x, "attn.q", _WIDTH, _WIDTH, bias=False), 0, 0, _HEADS, _HEAD)
    k, v = (
        g.reshape(g.linear(x, f"attn.{part}", _WIDTH, _WIDTH // 2, bias=False), 0, 0, _HEADS // 2, _HEAD)
        for part in "kv"
    )
    repeat = g.integers("repeat", 1, 1, 2, 1, 1)
    k, v = (g.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (k, v))
    k, v = (g.reshape(g.add("Expand", g.unsqueeze(part, 2), repeat), 0, _HEADS, -1, _HEAD) for part in (k, v))
    mixed = _mix(g, g.add("Transpose", q, perm=[0, 2, 1, 3]), g.add("Transpose", k, perm=[0, 1, 3, 2]), v)
    out = g.linear(g.reshape(mixed, 0, 0, _WIDTH), "attn.out", _WIDTH, _WIDTH, bias=False)
    return g.model(g.add("Add", out, "x"))


def encoder(opset: int) -> onnx.ModelProto:
    """Two whole blocks between an embedding and a classifier, as in BERT, with decomposed LayerNorm."""
    g = Graph(opset, ids=("batch", "seq"))
    x = g.add("Gather", g.weight("embedding.weight", 48, _WIDTH, fan_in=1), "ids", name="embedding")
    for block in ("block0", "block1"):
        x = g.layer_norm(g.add("Add", _attend(g, x, f"{block}.attn"), x), f"{block}.norm1", _WIDTH, fused=False)
        h = _gelu(g, g.linear(x, f"{block}.up", _WIDTH, 2 * _WIDTH))
        down = g.linear(h, f"{block}.down", 2 * _WIDTH, _WIDTH)
        x = g.layer_norm(g.add("Add", down, x), f"{block}.norm2", _WIDTH, fused=False)
    return g.model(g.gemm(g.mean(x, 1, keep=False), "head", _WIDTH, 8))


def gated_ffn(opset: int) -> onnx.ModelProto:
    """SwiGLU: one product gates the other."""
    g = Graph(opset, x=("batch", "seq", _WIDTH))
    x = g.rms_norm("x", "norm", _WIDTH)
    gate = g.linear(x, "gate", _WIDTH, 64, bias=False)
    gate = g.add("Mul", gate, g.add("Sigmoid", gate))
    hidden = g.add("Mul", gate, g.linear(x, "up", _WIDTH, 64, bias=False))
    return g.model(g.add("Add", g.linear(hidden, "down", 64, _WIDTH, bias=False), "x"))


def fused_norm(opset: int) -> onnx.ModelProto:
    """A feed-forward block between LayerNormalization nodes."""
    return _ffn(opset, fused=True)


def decomposed_norm(opset: int) -> onnx.ModelProto:
    """A feed-forward block between LayerNorms of many nodes."""
    return _ffn(opset, fused=False)


def shared_weight(opset: int) -> onnx.ModelProto:
    """One weight in two products, one in front of the other."""
    g = Graph(opset, x=("batch", "seq", _WIDTH))
    weight = g.weight("shared.weight", _WIDTH, _WIDTH)
    h = g.add("Relu", g.add("MatMul", "x", weight, name="first"))
    return g.model(g.linear(g.add("Relu", g.add("MatMul", h, weight, name="second")), "last", _WIDTH, 16))


def tied_embedding(opset: int) -> onnx.ModelProto:
    """The table of the embedding, transposed, is also the head."""
    g = Graph(opset, ids=("batch", "seq"))
    table = g.weight("table.weight", 48, _WIDTH, fan_in=1)
    x = g.add("Gather", table, "ids", name="table")
    x = g.add("Add", g.linear(g.add("Relu", g.linear(x, "up", _WIDTH, 64)), "down", 64, _WIDTH), x)
    return g.model(g.add("MatMul", x, g.add("Transpose", table, perm=[1, 0]), name="head"))


def embedding(opset: int) -> onnx.ModelProto:
    """An embedding, a product and a head of its own."""
    g = Graph(opset, ids=("batch", "seq"))
    x = g.add("Gather", g.weight("table.weight", 48, _WIDTH, fan_in=1), "ids", name="table")
    return g.model(g.linear(g.add("Tanh", g.linear(x, "inner", _WIDTH, _WIDTH)), "head", _WIDTH, 48, bias=False))


def _attend(g: Graph, x: str, name: str) -> str:
    split = {p: g.reshape(g.linear(x, f"{name}.{p}", _WIDTH, _WIDTH), 0, 0, _HEADS, _HEAD) for p in "qkv"}
    q, v = (g.add("Transpose", split[part], perm=[0, 2, 1, 3]) for part in "qv")
    k = g.add("Transpose", split["k"], perm=[0, 2, 3, 1])
    return g.linear(g.reshape(_mix(g, q, k, v), 0, 0, _WIDTH), f"{name}.out", _WIDTH, _WIDTH)


def _mix(g: Graph, q: str, k: str, v: str) -> str:
    """[batch, heads, seq, head] each (`k` with its last axes exchanged) -> [batch, seq, heads, head]."""
    scores = g.add("Div", g.add("MatMul", q, k), g.scalar("root", _HEAD**0.5))
    weights = g.add("Softmax", scores, axis=3)
    return g.add("Transpose", g.add("MatMul", weights, v), perm=[0, 2, 1, 3])


def _gelu(g: Graph, x: str) -> str:
    """The exact GELU, as exporters write it before opset 20."""
    inner = g.add("Erf", g.add("Div", x, g.scalar("root2", 2**0.5)))
    outer = g.add("Mul", x, g.add("Add", inner, g.scalar("one", 1)))
    return g.add("Mul", outer, g.scalar("half", 0.5))


def _ffn(opset: int, *, fused: bool) -> onnx.ModelProto:
    g = Graph(opset, x=("batch", "seq", _WIDTH))
    h = g.layer_norm("x", "norm1", _WIDTH, fused=fused)
    h = g.linear(_gelu(g, g.linear(h, "up", _WIDTH, 64)), "down", 64, _WIDTH)
    return g.model(g.linear(g.layer_norm(g.add("Add", h, "x"), "norm2", _WIDTH, fused=fused), "last", _WIDTH, 16))


MODELS: tuple[Callable[[int], onnx.ModelProto], ...] = (
    attention, attention_computed_shapes, attention_one_projection, attention_grouped_queries, encoder, gated_ffn,
    fused_norm, decomposed_norm, shared_weight, tied_embedding, embedding,
)  # fmt: skip
