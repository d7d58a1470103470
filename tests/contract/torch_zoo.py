"""Torch modules as wide as the operators that networks are built of: each holds one thing that a cut may get wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

IMAGE, TOKENS, IDS, SIGNAL = (2, 3, 8, 8), (2, 7, 24), (2, 7), (2, 4, 16)


class Chain(nn.Module):
    """Convolutions in a row, and one more layer or norm between them; a classifier over the mean."""

    def __init__(self, make: Callable[[], nn.Module], out: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.middle = make()
        self.last = nn.Conv2d(out, 12, 3, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.last(F.relu(self.middle(self.first(x))))).mean((2, 3)))


class Stages(nn.Module):
    """ResNet: a stage of half the size, with a convolution on the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.a, self.a_norm = nn.Conv2d(12, 20, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(20)
        self.b, self.b_norm = nn.Conv2d(20, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20)
        self.short, self.short_norm = nn.Conv2d(12, 20, 1, stride=2, bias=False), nn.BatchNorm2d(20)
        self.head = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        y = self.b_norm(self.b(F.relu(self.a_norm(self.a(x)))))
        return self.head(F.adaptive_avg_pool2d(F.relu(y + self.short_norm(self.short(x))), 1).flatten(1))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and what was there before appended."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.merge, self.head = nn.Conv2d(20, 10, 3, padding=1), nn.Conv2d(10, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = F.relu(self.enter(x))
        y = F.relu(self.up(F.relu(self.deep(F.max_pool2d(skip, 2)))))
        return self.head(F.relu(self.merge(torch.cat([y, skip], 1))))


class SqueezeExcite(nn.Module):
    """Channels weighed by what two small layers make of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 5, 1)
        self.squeeze, self.excite = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.first(x))
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.last(x * weights)


class ConvNext(nn.Module):
    """A depthwise convolution, a norm and two products over channels that are last, a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 12, 2, stride=2), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 32), nn.Linear(32, 12)
        self.scale, self.head = nn.Parameter(torch.ones(12)), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        x = x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class Shuffle(nn.Module):
    """ShuffleNet: one half passes, the other is computed, and their channels are dealt anew."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = F.relu(self.first(x)).chunk(2, 1)
        both = torch.cat([one, F.relu(self.branch(other))], 1)
        dealt = both.view(both.shape[0], 2, both.shape[1] // 2, *both.shape[2:]).transpose(1, 2).reshape(both.shape)
        return self.head(dealt)


class SuperResolution(nn.Module):
    """Channels become pixels: only four of them can go together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.head = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(F.pixel_shuffle(self.second(F.relu(self.first(x))), 2)))


class GroupedQueries(nn.Module):
    """Attention of 6 heads of queries over 2 heads of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.groups = 6, 2
        self.q, self.k, self.v = nn.Linear(24, 48), nn.Linear(24, 16), nn.Linear(24, 16)
        self.o, self.head = nn.Linear(48, 24), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x).view(x.shape[0], x.shape[1], self.queries, 8).transpose(1, 2)
        k = self.k(x).view(x.shape[0], x.shape[1], self.groups, 8).transpose(1, 2)
        v = self.v(x).view(x.shape[0], x.shape[1], self.groups, 8).transpose(1, 2)
        k, v = (each.repeat_interleave(self.queries // self.groups, 1) for each in (k, v))
        weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1)
        return self.head((x + self.o((weights @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))).mean(1))


class Packed(nn.Module):
    """torch's own layer of an encoder: queries, keys and values are one weight of no module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(24, 4, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x).mean(1))


class Gated(nn.Module):
    """Two gated hidden layers: of two products, and of the halves of one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(24, 40), nn.Linear(24, 40), nn.Linear(40, 24)
        self.both, self.out = nn.Linear(24, 64), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return self.out(F.glu(self.both(x), -1)).mean(1)


class Shared(nn.Module):
    """One module that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.head = nn.Linear(24, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.again(F.relu(self.again(F.relu(self.enter(x))))))).mean(1)


class Tied(nn.Module):
    """A language model whose head is its table of tokens, with one of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(11, 24), nn.Embedding(7, 24)
        self.up, self.down, self.norm = nn.Linear(24, 40), nn.Linear(40, 24), nn.LayerNorm(24)
        self.head = nn.Linear(24, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.norm(x + self.down(F.gelu(self.up(x)))))


class Patches(nn.Module):
    """A vision transformer's first steps: patches, a token of its own in front, positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.first = nn.Conv2d(3, 24, 4, stride=4), nn.Parameter(torch.zeros(1, 1, 24))
        self.places = nn.Parameter(torch.zeros(1, 5, 24))
        self.norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 40), nn.Linear(40, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head((x + self.down(F.gelu(self.up(self.norm(x)))))[:, 0])


class Recurrent(nn.Module):
    """A convolution over time, an LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(4, 12, 3, padding=1), nn.BatchNorm1d(12)
        self.rest, self.head = nn.LSTM(12, 10, batch_first=True), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rest(F.relu(self.norm(self.first(x))).transpose(1, 2))[0][:, -1])


class Signal(nn.Module):
    """Convolutions over time, strided and dilated, split in parts of fixed sizes, and a slope per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slope = nn.Conv1d(4, 16, 4, stride=2, padding=1), nn.PReLU(16)
        self.one, self.other = nn.Conv1d(10, 8, 3, padding=2, dilation=2), nn.Conv1d(6, 8, 1)
        self.head = nn.Conv1d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = torch.split(self.slope(self.first(x)), [10, 6], 1)
        return self.head(torch.tanh(self.one(a)) * torch.sigmoid(self.other(b)))


def _between(make: Callable[[], nn.Module], out: int = 16) -> Callable[[], nn.Module]:
    return functools.partial(Chain, make, out)


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "grouped": (_between(lambda: nn.Conv2d(16, 24, 3, padding=1, groups=4), 24), IMAGE),
    "depthwise multiplier": (_between(lambda: nn.Conv2d(16, 32, 3, padding=1, groups=16), 32), IMAGE),
    "transposed": (_between(lambda: nn.ConvTranspose2d(16, 20, 3, stride=2), 20), IMAGE),
    "transposed groups": (_between(lambda: nn.ConvTranspose2d(16, 16, 2, stride=2, groups=4)), IMAGE),
    "batch norm": (_between(lambda: nn.BatchNorm2d(16)), IMAGE),
    "group norm": (_between(lambda: nn.GroupNorm(4, 16)), IMAGE),
    "instance norm": (_between(lambda: nn.InstanceNorm2d(16, affine=True)), IMAGE),
    "stages": (Stages, IMAGE),
    "u-net": (UNet, IMAGE),
    "squeeze excite": (SqueezeExcite, IMAGE),
    "convnext": (ConvNext, IMAGE),
    "shuffle": (Shuffle, IMAGE),
    "super resolution": (SuperResolution, IMAGE),
    "grouped queries": (GroupedQueries, TOKENS),
    "packed attention": (Packed, TOKENS),
    "gated": (Gated, TOKENS),
    "shared": (Shared, TOKENS),
    "tied": (Tied, IDS),
    "patches": (Patches, IMAGE),
    "recurrent": (Recurrent, SIGNAL),
    "signal": (Signal, SIGNAL),
}
