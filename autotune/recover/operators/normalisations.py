"""Normalisations, as they are at inference: running statistics are constants."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from autotune.recover.operators.node import Builder, Node, Operator, Tensor, Unsupported


def _per_channel(tensor: Tensor, rank: int) -> Tensor:
    return tensor.reshape(1, -1, *[1] * (rank - 2))


def _batch(node: Node) -> Operator:
    node.only_first_output()
    if node.get("training_mode", 0):
        raise Unsupported("training mode")
    epsilon = node.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon)

    return run


def _instance(node: Node) -> Operator:
    epsilon = node.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        over = tuple(range(2, x.dim()))
        variance, mean = torch.var_mean(x, dim=over, correction=0, keepdim=True)
        normal = (x - mean) * torch.rsqrt(variance + epsilon)
        return normal * _per_channel(scale, x.dim()) + _per_channel(bias, x.dim())

    return run


def _group(node: Node) -> Operator:
    epsilon, groups = node.get("epsilon", 1e-5), node.get("num_groups")

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if scale.numel() == groups != x.shape[1]:  # opset 18: one scale per group
            scale = scale.repeat_interleave(x.shape[1] // groups)
            bias = bias.repeat_interleave(x.shape[1] // groups)
        return F.group_norm(x, groups, scale, bias, eps=epsilon)

    return run


def _layer(node: Node) -> Operator:
    epsilon, start = node.get("epsilon", 1e-5), node.get("axis", -1)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        over = list(range(start % x.dim(), x.dim()))
        if not any(node.outputs[1:]) and math.prod(x.shape[axis] for axis in over) == scale.numel():
            shape = [x.shape[axis] for axis in over]
            return F.layer_norm(x, shape, scale.reshape(shape), bias if bias is None else bias.reshape(shape), epsilon)
        variance, mean = torch.var_mean(x, dim=over, correction=0, keepdim=True)
        inverse = torch.rsqrt(variance + epsilon)
        y = (x - mean) * inverse * scale
        y = y if bias is None else y + bias
        return (y, mean, inverse) if any(node.outputs[1:]) else y

    return run


def _root_mean_square(node: Node) -> Operator:
    node.only_first_output()
    epsilon, start = node.get("epsilon", 1e-5), node.get("axis", -1)

    def run(x: Tensor, scale: Tensor) -> Tensor:
        over = list(range(start % x.dim(), x.dim()))
        return x * torch.rsqrt(x.square().mean(dim=over, keepdim=True) + epsilon) * scale

    return run


def _skip_layer(node: Node) -> Operator:
    """ONNX Runtime's SkipLayerNormalization: LayerNormalization(x + skip + bias)."""
    if any(node.outputs[1:3]):
        raise Unsupported("mean or deviation as an output")
    epsilon = node.get("epsilon", 1e-12)

    def run(
        x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor | tuple[Tensor | None, ...]:
        total = x + skip if bias is None else x + skip + bias
        y = F.layer_norm(total, gamma.shape, gamma, beta, epsilon)
        return (y, None, None, total) if node.writes(3) else y

    return run  # type: ignore[return-value]  # outputs that nobody reads are None


def _mean_variance(node: Node) -> Operator:
    axes = node.get("axes", [0, 2, 3])

    def run(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
        return (x - mean) / (variance.sqrt() + 1e-9)

    return run


def _local_response(node: Node) -> Operator:
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    size = node.get("size")

    def run(x: Tensor) -> Tensor:
        squares = x.square().flatten(2).unsqueeze(1)  # [batch, 1, channels, places]
        padded = F.pad(squares, (0, 0, (size - 1) // 2, size // 2))
        mean = F.avg_pool2d(padded, (size, 1), stride=1).squeeze(1).reshape(x.shape)
        return torch.div(x, (bias + alpha * mean).pow(beta))

    return run


OPERATORS: dict[str, Builder] = {
    "BatchNormalization": _batch,
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "LayerNormalization": _layer,
    "RMSNormalization": _root_mean_square,
    "SimplifiedLayerNormalization": _root_mean_square,
    "com.microsoft.SkipLayerNormalization": _skip_layer,
    "MeanVarianceNormalization": _mean_variance,
    "LRN": _local_response,
}
