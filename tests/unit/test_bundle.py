"""A bundle is whole, holds the measured bytes, and proves it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.bundle import check_destination, export_bundle, verify_bundle
from autotune.errors import DataError, DiskError, UsageError
from autotune.recipe import Recipe
from autotune.store import Store, open_store
from autotune.trial import Trial, Value
from autotune.workload import Dataset, Sample, Workload, inputs_digest


def model_bytes() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["a b'c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("a b'c", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    proto: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(proto.SerializeToString())


def workload() -> Workload:
    def samples(start: int) -> list[Sample]:
        return [Sample(str(i), {"a b'c": np.full((1, 3), i, np.float32)}, 0) for i in range(start, start + 3)]

    return Workload(
        model="model.onnx",
        search=Dataset("search", samples(0)),
        heldout=Dataset("heldout", samples(10)),
        calibration=[s.inputs for s in samples(20)],
        decode=lambda outputs: [0],
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A study with a baseline and one complete, verified trial, 1."""
    opened = open_store(tmp_path / "store.db", "small")
    opened.begin('{"name": "small"}', "d" * 64)
    for recipe in (Recipe(), Recipe({"quantize": {"fc": "int8-static"}})):
        number = opened.start_trial(recipe, "user")
        artifact = opened.save_artifact(
            model_bytes() + b"\x62\x00" * number, "ort-cpu"
        )  # an empty field tells them apart
        opened.record_build(number, artifact, ())
        metrics = {
            "size_bytes": Value.exact(float(artifact.size_bytes)),
            "drop/worst": Value(value=0, low=-0.1, high=0.1),
        }
        opened.finish_trial(number, "complete", metrics=metrics)
        opened.set_final(number, metrics)
    opened.start_trial(Recipe({"quantize": {"fc": "w2-b32"}}), "user")
    return opened


def export(store: Store, folder: Path, number: int = 1) -> Path:
    return export_bundle(store, store.trial(number), folder, workload=workload(), study="studies/small one")


def test_what_is_in_it(store: Store, tmp_path: Path) -> None:
    folder = export(store, tmp_path / "deep" / "bundle")
    manifest = verify_bundle(folder)
    trial: Trial = store.trial(1)
    assert trial.artifact is not None
    assert (folder / "model.onnx").read_bytes() == store.artifact_bytes(trial.artifact.digest)
    assert json.loads((folder / "recipe.json").read_text()) == trial.recipe
    assert manifest["metrics"]["final"]["drop/worst"] == {"value": 0.0, "low": -0.1, "high": 0.1}
    assert manifest["data"]["heldout"] == {"digest": workload().heldout.digest(), "samples": 3}
    assert manifest["data"]["calibration"] == {"digest": inputs_digest(workload().calibration), "samples": 3}
    assert manifest["code"] == {"decode": sha256(Path(__file__).read_bytes()).hexdigest()}
    assert manifest["command"] == "autotune export 'studies/small one' 1 bundle"
    assert manifest["versions"]["onnxruntime"] and manifest["workload_digest"] == "d" * 64
    assert set(manifest["files"]) == {
        "model.onnx", "recipe.json", "evidence.json", "report.html", "infer.py", "README.md",
    }  # fmt: skip
    assert [p.name for p in folder.parent.iterdir()] == ["bundle"]  # no draft left behind


def test_the_snippet_runs_anywhere_with_nothing_of_ours(store: Store, tmp_path: Path) -> None:
    folder = export(store, tmp_path / "bundle")
    ran = subprocess.run(
        [sys.executable, "-I", folder / "infer.py"], cwd="/", capture_output=True, text=True, check=True
    )
    assert ran.stdout == "y float32 (1, 3)\n"
    assert len((folder / "infer.py").read_text().splitlines()) <= 14


def test_a_bundle_is_replaced_whole_and_nothing_else_is(store: Store, tmp_path: Path) -> None:
    folder = export(store, tmp_path / "bundle", 0)
    export(store, folder, 1)
    assert verify_bundle(folder)["trial"] == 1
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and not a bundle"):
        export(store, folder, 0)
    assert verify_after_removing(folder, "notes.txt")["trial"] == 1


def verify_after_removing(folder: Path, name: str) -> dict[str, object]:
    (folder / name).unlink()
    return verify_bundle(folder)


def test_where_a_bundle_may_go(tmp_path: Path) -> None:
    check_destination(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_destination(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("file", "link", "."):
        with pytest.raises(UsageError):
            check_destination(tmp_path / name)


@pytest.mark.parametrize("number", [2])
def test_only_a_complete_trial_ships(store: Store, tmp_path: Path, number: int) -> None:
    with pytest.raises(UsageError, match="running"):
        export(store, tmp_path / "bundle", number)
    assert not (tmp_path / "bundle").exists()


def test_an_artifact_that_rotted_does_not_ship(store: Store, tmp_path: Path) -> None:
    artifact = store.trial(1).artifact
    assert artifact is not None
    path = store.artifact_path(artifact.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError):
        export(store, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_place_that_cannot_be_written(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="file"):
        export(store, tmp_path / "file" / "bundle")


def change_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "model.onnx").write_bytes(bytes(data))


def edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rename_in_manifest(name: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        edit(folder, lambda manifest: manifest["files"].update({name: manifest["files"]["recipe.json"]}))

    return rename


def link_the_model(folder: Path) -> None:
    data = (folder / "model.onnx").read_bytes()
    (folder.parent / "elsewhere.onnx").write_bytes(data)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


@pytest.mark.parametrize(
    ("tamper", "hint"),
    [
        (change_a_byte, "model.onnx is not the file"),
        (lambda folder: (folder / "recipe.json").unlink(), "recipe.json is missing"),
        (lambda folder: (folder / "extra.so").write_bytes(b""), "extra.so"),
        (link_the_model, "no regular file"),
        (rename_in_manifest("../recipe.json"), "not a plain name"),
        (rename_in_manifest("/etc/passwd"), "not a plain name"),
        (rename_in_manifest("a\\..\\b"), "not a plain name"),
        (rename_in_manifest(".."), "not a plain name"),
        (rename_in_manifest("a\x1b[2J"), "not a plain name"),
        (lambda folder: edit(folder, lambda m: m.update(api_version=99)), "version 99"),
        (lambda folder: edit(folder, lambda m: m.update(files=[])), "not the manifest"),
        (lambda folder: edit(folder, lambda m: m.update(files={"model.onnx": 3})), "not the manifest"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "not JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "not JSON"),
        (lambda folder: (folder / "manifest.json").unlink(), "no bundle"),
    ],
)
def test_tampering_is_found(store: Store, tmp_path: Path, tamper: Callable[[Path], object], hint: str) -> None:
    folder = export(store, tmp_path / "bundle")
    tamper(folder)
    with pytest.raises(DataError) as caught:
        verify_bundle(folder)
    assert hint in str(caught.value)
