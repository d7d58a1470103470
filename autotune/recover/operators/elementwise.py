"""Operators that work number by number: arithmetic, activations, comparisons, types."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F

from autotune.recover.operators.node import Builder, Node, Operator, Tensor, Unsupported, dtype_of, simple


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(node: Node) -> Operator:
    def run(base: Tensor, exponent: Tensor) -> Tensor:
        # A number is a kernel of its own in torch (x * x for 2) and has no gradient that could be NaN.
        fixed = exponent.numel() == 1 and exponent.dim() <= base.dim() and not exponent.requires_grad
        return torch.pow(base, exponent.item() if fixed else exponent).to(base.dtype)

    return run


def _variadic(combine: Callable[[Tensor, Tensor], Tensor]) -> Builder:
    def run(*tensors: Tensor) -> Tensor:
        return reduce(combine, tensors)

    return simple(run)


def _mean(*tensors: Tensor) -> Tensor:
    return reduce(torch.add, tensors) / len(tensors)


def _modulo(node: Node) -> Operator:
    return torch.fmod if node.get("fmod", 0) else torch.remainder


def _shift(node: Node) -> Operator:
    return torch.bitwise_left_shift if node.get("direction") == "LEFT" else torch.bitwise_right_shift


def _clip(node: Node) -> Operator:
    low, high = node.get("min"), node.get("max")  # before opset 11

    def run(x: Tensor, minimum: Tensor | None = None, maximum: Tensor | None = None) -> Tensor:
        if minimum is None and maximum is None:
            return x if low is None and high is None else x.clamp(low, high)
        return x.clamp(None if minimum is None else minimum.item(), None if maximum is None else maximum.item())

    return run


def _parametrised(function: Callable[..., Tensor], **defaults: float) -> Builder:
    """An activation with attributes, handed on by name."""

    def build(node: Node) -> Operator:
        options = {name: node.get(name, value) for name, value in defaults.items()}
        return lambda x: function(x, **options)

    return build


def _selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (x * alpha + beta).clamp(0, 1)


def _thresholded(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > alpha, x, 0)


def _shrink(x: Tensor, lambd: float, bias: float) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0))


def _swish(x: Tensor, alpha: float) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def _gelu(node: Node) -> Operator:
    kind = node.get("approximate", "none")
    return lambda x: F.gelu(x, approximate=kind)


def _fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _cast(node: Node) -> Operator:
    dtype = dtype_of(node.get("to"))
    if dtype is torch.bool:
        return lambda x: x != 0
    return lambda x: x.to(dtype)


def _is_infinite(node: Node) -> Operator:
    if not (node.get("detect_positive", 1) and node.get("detect_negative", 1)):
        raise Unsupported("detects one sign only")
    return torch.isinf


def _dropout(node: Node) -> Operator:
    def run(x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        if training is not None and bool(training):
            raise Unsupported("Dropout in training mode")
        return (x, torch.ones_like(x, dtype=torch.bool)) if node.writes(1) else x

    return run


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


def _softmax(function: Callable[..., Tensor]) -> Builder:
    def build(node: Node) -> Operator:
        if node.opset >= 13:
            return lambda x: function(x, dim=node.get("axis", -1))

        def flattened(x: Tensor) -> Tensor:  # over all axes from `axis` on
            axis = node.get("axis", 1) % max(1, x.dim())
            return function(x.reshape(math.prod(x.shape[:axis]), -1), dim=1).reshape(x.shape)

        return flattened

    return build


def _hardmax(x: Tensor, dim: int) -> Tensor:
    best = x.argmax(dim=dim, keepdim=True)
    return torch.zeros_like(x).scatter_(dim, best, 1)


def _dequantise(node: Node) -> Operator:
    if node.get("block_size", 0):
        raise Unsupported("blocks")
    axis = node.get("axis", 1)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        shape = [1] * x.dim()
        if scale.dim() == 1 and scale.numel() > 1:
            shape[axis] = -1
        levels = x.to(scale.dtype) if zero is None else x.to(scale.dtype) - zero.to(scale.dtype).reshape(shape)
        return levels * scale.reshape(shape)

    return run


_PLAIN: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Identity": lambda x: x, "IsNaN": torch.isnan,
    "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh,
    "Softsign": F.softsign, "Softplus": lambda x: F.softplus(x, threshold=40.0), "Sqrt": torch.sqrt, "Tan": torch.tan,
    "Tanh": torch.tanh, "HardSwish": F.hardswish, "Mish": F.mish, "PRelu": _prelu,
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": _divide, "Where": _where, "Mean": _mean,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor, "Equal": torch.eq,
    "Greater": torch.gt, "Less": torch.lt, "GreaterOrEqual": torch.ge, "LessOrEqual": torch.le,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
    "BitwiseNot": torch.bitwise_not, "CastLike": lambda x, like: x.to(like.dtype),
    "com.microsoft.Gelu": F.gelu, "com.microsoft.FastGelu": _fast_gelu,
    "com.microsoft.BiasGelu": lambda x, bias: F.gelu(x + bias),
}  # fmt: skip

OPERATORS: dict[str, Builder] = {
    **{op: simple(function) for op, function in _PLAIN.items()},
    "Pow": _power,
    "Mod": _modulo,
    "BitShift": _shift,
    "Sum": _variadic(torch.add),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Clip": _clip,
    "Cast": _cast,
    "IsInf": _is_infinite,
    "Dropout": _dropout,
    "DequantizeLinear": _dequantise,
    "Gelu": _gelu,
    "Elu": _parametrised(F.elu, alpha=1.0),
    "Celu": _parametrised(F.celu, alpha=1.0),
    "Selu": _parametrised(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "LeakyRelu": _parametrised(lambda x, alpha: F.leaky_relu(x, alpha), alpha=0.01),
    "HardSigmoid": _parametrised(_hard_sigmoid, alpha=0.2, beta=0.5),
    "ThresholdedRelu": _parametrised(_thresholded, alpha=1.0),
    "Shrink": _parametrised(_shrink, lambd=0.5, bias=0.0),
    "Swish": _parametrised(_swish, alpha=1.0),
    "com.microsoft.QuickGelu": _parametrised(_swish, alpha=1.702),
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Hardmax": _softmax(_hardmax),
}
