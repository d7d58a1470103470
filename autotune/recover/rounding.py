"""Rounding in torch, number for number as the dialects write it (`techniques.rounding`), with straight-through
gradients (Bengio et al. 2013): rounding counts as the identity on the way back."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autotune.recover.operators.node import Tensor

_TINY = torch.finfo(torch.float32).tiny
_CLIP_FACTORS = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)  # as in techniques.rounding
_HALF_MAX = 65504.0
_E4M3_MAX, _E4M3_LEAST, _E2M1_MAX = 448.0, 2.0**-9, 6.0  # the least is that above 0
_NVFP4_BLOCK = 16


def straight_through(real: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `real`."""
    return real + (rounded - real).detach() if real.requires_grad else rounded


def half(weight: Tensor) -> Tensor:
    """float16, clipped to its range."""
    with torch.no_grad():
        rounded = weight.clamp(-_HALF_MAX, _HALF_MAX).half().to(weight.dtype)
    return straight_through(weight, rounded)


def bfloat16(real: Tensor) -> Tensor:
    """bfloat16, rounded to nearest even."""
    with torch.no_grad():
        rounded = real.bfloat16().to(real.dtype)
    return straight_through(real, rounded)


def channel_scales(weight: Tensor, axis: int) -> Tensor:
    """float32 [channels]: the scales of symmetric int8 with one scale per index of `axis`."""
    with torch.no_grad():
        over = [i for i in range(weight.dim()) if i != axis]
        peak = weight.detach().abs().amax(dim=over) if over else weight.detach().abs()
        return torch.where(peak > 0, peak / 127.0, 1.0).clamp(min=_TINY)


def per_channel(weight: Tensor, axis: int) -> Tensor:
    """Symmetric int8 in [-127, 127] with one scale per index of `axis`."""
    with torch.no_grad():
        shape = [1] * weight.dim()
        shape[axis] = -1
        scales = channel_scales(weight, axis).reshape(shape)
        rounded = torch.round(weight / scales).clamp(-127, 127) * scales
    return straight_through(weight, rounded)


def in_blocks(rows: Tensor, bits: int, block: int, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows [outputs, length] rounded in blocks of `block`, without gradient, and the clipping factors that were chosen.

    `factors` [outputs, blocks] are those of an earlier call, to be used again; None: the best of six are searched,
    which costs six times as much.
    """
    outputs, length = rows.shape
    blocks = -(-length // block)
    with torch.no_grad():
        padded = torch.nn.functional.pad(rows.detach(), (0, blocks * block - length))
        values = padded.reshape(outputs, blocks, block)
        where = values.abs().argmax(dim=-1, keepdim=True)
        peak = values.gather(-1, where)
        if factors is not None:
            best = _levelled(values, peak, factors.unsqueeze(-1), bits)
            return best.reshape(outputs, -1)[:, :length], factors
        factors = torch.ones_like(peak)
        best = _levelled(values, peak, factors, bits)
        error = (best - values).square().sum(dim=-1, keepdim=True)
        for factor in _CLIP_FACTORS[1:] if bits <= 4 else ():
            trial = _levelled(values, peak, torch.full_like(peak, factor), bits)
            its_error = (trial - values).square().sum(dim=-1, keepdim=True)
            better = its_error < error
            best = torch.where(better, trial, best)
            factors = torch.where(better, factor, factors)
            error = torch.where(better, its_error, error)
        return best.reshape(outputs, -1)[:, :length], factors.squeeze(-1)


def codebook(rows: Tensor, table: Sequence[float], block: int) -> Tensor:
    """Rows [outputs, length] rounded, without gradient, to the values of a sorted `table` in [-1, 1] times the largest
    magnitude of their block."""
    outputs, length = rows.shape
    blocks = -(-length // block)
    with torch.no_grad():
        values = torch.nn.functional.pad(rows.detach(), (0, blocks * block - length)).reshape(outputs, blocks, block)
        scales = values.abs().amax(dim=-1, keepdim=True)
        scales = torch.where(scales < _TINY, 1.0, scales)
        wide = torch.tensor(table, dtype=torch.float64)
        places = torch.searchsorted((wide[1:] + wide[:-1]) / 2, (values / scales).double().contiguous())
        return (wide.to(rows.dtype)[places] * scales).reshape(outputs, -1)[:, :length]


def _levelled(values: Tensor, peak: Tensor, factors: Tensor, bits: int) -> Tensor:
    lowest = 1 << (bits - 1)
    scales = peak * factors / -lowest
    scales = torch.where(scales.abs() < _TINY, 1.0, scales)
    return torch.round(values / scales).clamp(-lowest, lowest - 1) * scales


def static_uint8(x: Tensor, scale: float, zero: int) -> Tensor:
    """Asymmetric uint8 with a fixed scale and zero point; no gradient where the range clips."""
    inside = x.clamp(-zero * scale, (255 - zero) * scale)
    with torch.no_grad():
        rounded = ((torch.round(x / scale) + zero).clamp(0, 255) - zero) * scale
    return straight_through(inside, rounded)


def static_int8(x: Tensor, scale: float) -> Tensor:
    """Symmetric int8 in [-128, 127] with a fixed scale; no gradient where the range clips."""
    inside = x.clamp(-128 * scale, 127 * scale)
    with torch.no_grad():
        rounded = torch.round(x / scale).clamp(-128, 127) * scale
    return straight_through(inside, rounded)


def static_e4m3(x: Tensor, scale: float) -> Tensor:
    """E4M3 with a fixed scale, rounded to nearest even and saturating at 448; no gradient where the range clips."""
    inside = x.clamp(-448 * scale, 448 * scale)
    with torch.no_grad():
        rounded = (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) * scale
    return straight_through(inside, rounded)


def blocks_e2m1(x: Tensor, whole: float) -> Tensor:
    """NVFP4: E2M1 in blocks of 16 along the last axis, whose scales are E4M3 numbers times `whole`, found from the
    largest magnitude of each block; no gradient where the largest scale clips.

    The last axis must be a multiple of 16, as it is where a dialect offers the format.
    """
    limit = _E4M3_MAX * _E2M1_MAX * whole
    inside = x.clamp(-limit, limit)
    with torch.no_grad():
        blocks = x.detach().reshape(*x.shape[:-1], -1, _NVFP4_BLOCK)
        wanted = (blocks.abs().amax(dim=-1, keepdim=True) / (_E2M1_MAX * whole)).clamp(_E4M3_LEAST, _E4M3_MAX)
        scales = wanted.to(torch.float8_e4m3fn).to(x.dtype) * whole
        rounded = (_e2m1(blocks / scales) * scales).reshape(x.shape)
    return straight_through(inside, rounded)


def _e2m1(x: Tensor) -> Tensor:
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4 and 6 with the sign of x; of two that are equally near the even one."""
    size = x.abs().clamp(max=_E2M1_MAX)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.round(size / step) * step * x.sign()


def dynamic_uint8(x: Tensor) -> Tensor:
    """Asymmetric uint8 over the range of the whole tensor (ONNX DynamicQuantizeLinear)."""
    with torch.no_grad():
        low, high = x.min().clamp(max=0), x.max().clamp(min=0)
        scale = (high - low) / 255
        scale = torch.where(scale == 0, 1.0, scale)
        zero = torch.round((-low / scale).clamp(0, 255))
        rounded = ((torch.round(x / scale) + zero).clamp(0, 255) - zero) * scale
    return straight_through(x, rounded)
