"""Handwritten digits: a small CNN, trained here in seconds on scikit-learn's 8 x 8 images, with slices that
differ.

Everything is seeded. The three data sets come from different original images; each is enlarged by shifts and noise,
which are slices too. What the network was trained on is what recovery trains on.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from autotune.workload import Arrays, Dataset, Sample, Workload

SIZE = 16  # pixels: the 8 x 8 images are doubled
SEED = 7
EPOCHS = 30
CHANGES = ("plain", "shifted", "noisy")
STROKES = ("thin", "medium", "thick")


@dataclass(frozen=True)
class Split:
    """Original images `[n, 8, 8]` in [0, 1] and their digits."""

    images: np.ndarray
    digits: np.ndarray


class DigitNet(nn.Module):
    """A stem, two separable blocks with a residual, and two linear layers: about 30,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
        self.block1 = Separable(32)
        self.block2 = Separable(32)
        self.pool = nn.AvgPool2d(2)
        self.hidden = nn.Linear(32 * 4 * 4, 40)
        self.head = nn.Linear(40, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.block2(self.block1(self.down(self.stem(image))))
        x = torch.relu(self.hidden(self.pool(x).flatten(1)))
        return self.head(x)


class Separable(nn.Module):
    """Depthwise and pointwise convolution around a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.pointwise(torch.relu(self.depthwise(x))))


def workload() -> Workload:
    """Train the network and render the data: some seconds."""
    training, search, heldout = splits()
    model = train(training)
    edges = np.quantile(training.images.mean(axis=(1, 2)), [1 / 3, 2 / 3])
    calibration = [{"image": _enlarge(image)[None, None]} for image in training.images[:64]]
    found = dataset("search", search, edges)
    return Workload(
        name="digits",
        model=model,
        example_inputs=(torch.zeros(1, 1, SIZE, SIZE),),
        dynamic_axes={"image": {0: "batch"}},
        search=found,
        heldout=dataset("heldout", heldout, edges),
        calibration=calibration,
        decode=decode,
        metric="accuracy",
        slices=("label", "stroke", "change"),
        latency_inputs=found.samples[0].inputs,
        train=dataset("train", training, edges),
        loss=loss,
    )


def decode(outputs: Arrays) -> list[int]:
    """The class with the largest logit."""
    (logits,) = outputs.values()
    return [int(digit) for digit in logits.argmax(axis=-1)]


def loss(outputs: Mapping[str, torch.Tensor], labels: Sequence[int]) -> torch.Tensor:
    """Cross entropy of each sample."""
    (logits,) = outputs.values()
    return nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none")


def splits() -> tuple[Split, Split, Split]:
    """Training, search and held-out originals: 1,077, 360 and 360 images, drawn without overlap."""
    digits = load_digits()
    order = np.random.Generator(np.random.PCG64(SEED)).permutation(len(digits.target))
    images, labels = (digits.images[order] / 16).astype(np.float32), digits.target[order]
    return Split(images[720:], labels[720:]), Split(images[:360], labels[:360]), Split(images[360:720], labels[360:720])


def dataset(name: str, split: Split, edges: np.ndarray) -> Dataset:
    """Each original three times: plain, shifted by one pixel of the original, and noisy."""
    rng = np.random.Generator(np.random.PCG64(SEED + len(name)))
    samples = []
    for number, (image, digit) in enumerate(zip(split.images, split.digits, strict=True)):
        stroke = STROKES[int(np.searchsorted(edges, image.mean()))]
        for change in CHANGES:
            pixels = _enlarge(_change(change, image, rng))
            samples.append(
                Sample(
                    id=f"{name}-{number:03d}-{change}",
                    inputs={"image": pixels[None, None]},
                    label=int(digit),
                    metadata={"stroke": stroke, "change": change},
                    display=_png(pixels),
                )
            )
    return Dataset(name, samples)


def train(split: Split) -> DigitNet:
    """Adam on shifted and noisy copies; one thread, so that the weights do not depend on the machine's
    cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            return _fit(DigitNet(), split)
        finally:
            torch.set_num_threads(threads)


def _fit(model: DigitNet, split: Split) -> DigitNet:
    rng = np.random.Generator(np.random.PCG64(SEED))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - epoch / EPOCHS)
        order = rng.permutation(len(split.digits))
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            changes = rng.integers(len(CHANGES), size=len(rows))
            images = [
                _enlarge(_change(CHANGES[change], image, rng))
                for change, image in zip(changes, split.images[rows], strict=True)
            ]
            loss = nn.functional.cross_entropy(
                model(torch.from_numpy(np.stack(images)[:, None])), torch.from_numpy(split.digits[rows])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def _change(change: str, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if change == "shifted":
        rows, columns = rng.integers(-1, 2, size=2)
        padded = np.pad(image, 1)
        return padded[1 + rows : 9 + rows, 1 + columns : 9 + columns]
    if change == "noisy":  # in sixteenths, the unit of the originals
        return np.clip(image + rng.integers(-4, 5, size=image.shape) / np.float32(16), 0, 1).astype(np.float32)
    return image


def _enlarge(image: np.ndarray) -> np.ndarray:
    return np.kron(image, np.ones((2, 2), np.float32)).astype(np.float32)


def _png(pixels: np.ndarray) -> bytes:
    ink = (255 - pixels * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(ink).resize((64, 64), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()
