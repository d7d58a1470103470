"""Small torch modules as image and text models are built, with random weights and running statistics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """A stem, a block x + f(x) with BatchNorm, a pool and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.first = nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.inner = nn.BatchNorm2d(24)
        self.second = nn.Conv2d(24, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.second(F.relu(self.inner(self.first(x)))))
        return self.head(x.mean((2, 3)))


class Depthwise(nn.Module):
    """Expand, depthwise, project as MobileNet does; the classifier reads a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 16, 1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.project(F.hardswish(self.deep(F.relu(self.expand(x))))))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 4), 1))


class Concat(nn.Module):
    """DenseNet: what a layer makes is appended, and read by all that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 12, 3, padding=1)
        self.third = nn.Conv2d(20, 16, 1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.first(x))
        both = torch.cat([a, F.relu(self.second(a))], 1)
        return self.head(F.relu(self.third(both)))


class Attention(nn.Module):
    """One layer of an encoder: 6 heads of 8, a hidden layer of 64. `fixed`: its forward holds the number of heads in
    an attribute, as most do, else the size of a head."""

    def __init__(self, fixed: bool = True) -> None:
        super().__init__()
        self.heads, self.fixed = 6, fixed
        self.q, self.k, self.v = nn.Linear(24, 48), nn.Linear(24, 48), nn.Linear(24, 48)
        self.o = nn.Linear(48, 24)
        self.norm = nn.LayerNorm(24)
        self.up, self.down = nn.Linear(24, 64), nn.Linear(64, 24)
        self.head = nn.Linear(24, 3)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads if self.fixed else -1, 8).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)
        x = self.norm(x + self.o(y))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class Mixing(nn.Module):
    """A softmax over the channels between two convolutions: none of them can go alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.second = nn.Conv2d(16, 16, 1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.second(self.first(x).softmax(1))))


class Silent(nn.Module):
    """A second answer that is zero, until a cut changes the width that its forward looks at; the first one does not
    read what is cut. `answers`: whether the first one is anything but zero."""

    def __init__(self, answers: bool = True) -> None:
        super().__init__()
        self.first, self.head, self.other = nn.Linear(24, 32), nn.Linear(32, 4), nn.Linear(24, 4)
        self.answers = answers

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = F.relu(self.first(x))
        return self.other(x) * float(self.answers), self.head(hidden) * 0.0 + (32 - hidden.shape[1])


class Undifferentiable(nn.Module):
    """A forward without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(24, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.head(F.relu(self.first(x)))


IMAGE, TOKENS = (2, 3, 8, 8), (2, 7, 24)


def prepared(module: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with random weights and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=generator))
                part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
    return module.eval()


class Particular(nn.Module):
    """Takes numbers from 0 to 1 only, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(24, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting() and bool((x < 0).any()):
            raise ValueError("a negative number")
        return self.head(F.relu(self.first(x)))
