"""Adam whose steps are relative to what they change: one rate suits weights of every size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autotune.recover.operators.node import Tensor

_MEAN, _SQUARE = 0.9, 0.999  # decay of the running means of the gradient and of its square
_TINY = 1e-8


DescentState = tuple[int, list[Tensor], list[Tensor]]


class Descent:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) with a unit for each parameter: a step is at most about `rate` units.

    Where the unit is the root mean square of the parameter, `rate` is the share of itself that it moves by in a step
    (the relative step size of Adafactor, Shazeer and Stern 2018, arXiv 1804.04235, section 8). With units of 1 this is
    plain Adam. Deterministic.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], units: Sequence[Tensor]) -> None:
        """`units` are positive and of shapes that broadcast to those of the parameters."""
        self._parameters, self._units = list(parameters), list(units)
        self._mean = [torch.zeros_like(parameter) for parameter in parameters]
        self._square = [torch.zeros_like(parameter) for parameter in parameters]
        self._steps = 0

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient."""
        self._steps += 1
        first, second = 1 - _MEAN**self._steps, 1 - _SQUARE**self._steps
        for parameter, unit, mean, square in zip(self._parameters, self._units, self._mean, self._square, strict=True):
            if parameter.grad is None:
                continue
            mean.lerp_(parameter.grad, 1 - _MEAN)
            square.mul_(_SQUARE).addcmul_(parameter.grad, parameter.grad, value=1 - _SQUARE)
            size = (square / second).sqrt_().add_(_TINY)
            parameter.sub_(mean / size * unit, alpha=rate / first)

    def state(self) -> DescentState:
        """What the next steps depend on beside the parameters."""
        return self._steps, [each.clone() for each in self._mean], [each.clone() for each in self._square]

    def restore(self, state: DescentState) -> None:
        """Go on from a `state`, which stays as it is."""
        self._steps, mean, square = state
        self._mean, self._square = [each.clone() for each in mean], [each.clone() for each in square]
