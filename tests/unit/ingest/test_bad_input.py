"""Whatever is wrong with a model file: one `DataError`, one line, that names the file; never another exception."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from autotune.compress.ingest import load_model
from autotune.errors import DataError, UsageError
from tests.unit import zoo
from tests.unit.ingest.equivalence import assert_same


def refused(path: Path, words: str) -> str:
    with pytest.raises(DataError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message
    assert message.isprintable()
    return message


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_missing_folder_empty_and_special_files(tmp_path: Path) -> None:
    refused(tmp_path / "no.onnx", "there is no such file")
    refused(tmp_path, "is a folder")
    (tmp_path / "empty.onnx").touch()
    refused(tmp_path / "empty.onnx", "is empty")
    refused(Path("/dev/zero"), "is not a regular file")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "is not a regular file")
    with pytest.raises(DataError, match="cannot be opened"):
        load_model("bad\0name.onnx")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x18\0\0\0ORTM" + b"\0" * 64, "ORT-format"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 64, "TensorFlow Lite"),
        (b"PK\x03\x04" + b"\0" * 64, "PyTorch archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x80\x02}q\0.", "pickle"),
        (b"\x08\x08", "holds no graph"),
        (b"hello", "is not an ONNX file"),
    ],
)
def test_other_formats_are_recognised(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, words)


def test_larger_than_two_gib(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 5)  # sparse: takes no space
    refused(path, "2 GiB is the most")


def test_random_bytes(tmp_path: Path) -> None:
    path = tmp_path / "noise.onnx"
    rng = random.Random(0)
    for size in (1, 7, 64, 1000, 20_000):
        path.write_bytes(rng.randbytes(size))
        refused(path, "")


def test_truncation_at_every_sixteenth(tmp_path: Path) -> None:
    whole = zoo.conv_residual().SerializeToString()
    for part in range(1, 16):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[: len(whole) * part // 16])
        refused(path, "")


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_give_a_data_error_or_a_model(tmp_path: Path, seed: int) -> None:
    builds: list[Callable[[], onnx.ModelProto]] = [
        lambda: zoo.conv_residual(9), lambda: zoo.attention(11), lambda: zoo.if_branches(11), zoo.lstm,
        zoo.weight_norm, zoo.local_function, lambda: zoo.mlp(constant_nodes=True),
        lambda: zoo.old_operator("resize10_linear"),
    ]  # fmt: skip
    whole = builds[seed]().SerializeToString()
    rng = random.Random(seed)
    path = tmp_path / "flipped.onnx"
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 4))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            loaded = load_model(path)
        except DataError as error:
            assert "\n" not in str(error)
            continue
        stored = {tensor.name for tensor in loaded.model.graph.initializer}
        assert {layer.weight for layer in loaded.inspection.layers} <= stored


def broken(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = zoo.mlp()
    change(model)
    return model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40), "needs"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, -16), "negative dimension"),
        (lambda m: m.graph.initializer[0].dims.extend([2**62, 2**62]), "needs"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 99), "unknown type"),
        (lambda m: setattr(m.graph.initializer[0], "raw_data", b"short"), "has 5"),
        (lambda m: m.graph.node[0].input.__setitem__(1, "nowhere"), "which nothing defines"),
        (lambda m: m.graph.node[1].output.__setitem__(0, "m"), "no name of its own"),
        (lambda m: m.graph.node[2].output.__setitem__(0, "x"), "defined twice"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "r"), "cycle"),
        (lambda m: setattr(m.graph.output[0], "name", "nothing"), "no node computes"),
        (lambda m: setattr(m.graph.node[0], "op_type", ""), "has no operator"),
        (lambda m: setattr(m.graph.node[0], "op_type", "MatMull"), "not valid ONNX"),
        (lambda m: m.graph.node[0].input.append("x"), "has 3 inputs"),
        (lambda m: setattr(m.graph.node[3].attribute[0], "type", 1), "wrong type"),
        (lambda m: m.graph.node[3].attribute.add(name="odd", type=2, i=1), "unknown or of the wrong type"),
        (lambda m: m.graph.node[3].attribute.append(m.graph.node[3].attribute[0]), "same attribute twice"),
        (lambda m: m.ClearField("opset_import"), "no opset"),
        (lambda m: setattr(m, "ir_version", 0), "IR version 0"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "no name of its own"),
    ],
)  # fmt: skip
def test_inconsistent_models(tmp_path: Path, change: Callable[[onnx.ModelProto], object], words: str) -> None:
    refused(save(broken(change), tmp_path / "m.onnx"), words)


def test_operator_newer_than_onnxruntime(tmp_path: Path) -> None:
    model = zoo.model_of([zoo.node("BitShift", ["x", "x"], ["y"], direction="LEFT")], [], ["y"], {}, 28)
    model.graph.input.append(onnx.helper.make_tensor_value_info("x", TensorProto.UINT8, [2]))
    refused(save(model, tmp_path / "m.onnx"), "export the model at opset 21")


def field(number: int, content: bytes) -> bytes:
    """One length-delimited protobuf field, as bytes: the helpers of onnx refuse to build what this test needs."""
    size, length = b"", len(content)
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def test_subgraphs_nested_beyond_the_parsers_limit(tmp_path: Path) -> None:
    graph = b""
    for _ in range(10_000):
        graph = field(1, field(5, field(6, graph)))  # graph.node.attribute.g
        if len(graph) > 100_000:
            break
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x08" + field(7, graph))
    refused(path, "is not an ONNX file or is cut off")


def test_long_and_branching_chains_of_constants_cost_neither_stack_nor_time() -> None:
    nodes = [zoo.node("Add", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(3000)]
    nodes.append(zoo.node("MatMul", ["x", "c3000"], ["y"]))
    model = zoo.model_of(nodes, [zoo.floats("x", 2, 16)], ["y"], {"c0": zoo.weight(16, 16)})
    assert load_model(model).inspection.layers == ()


def test_broadcasting_bomb_in_front_of_a_weight_is_not_computed() -> None:
    constants = {"a": np.ones((200_000, 1), np.float32), "b": np.ones((1, 200_000), np.float32)}
    nodes = [zoo.node("Add", ["a", "b"], ["w"]), zoo.node("MatMul", ["x", "w"], ["y"])]
    model = zoo.model_of(nodes, [zoo.floats("x", 2, 200_000)], ["y"], constants)
    (skipped,) = [s for s in load_model(model).inspection.skipped if s.op == "MatMul"]
    assert skipped.reason == "its weight is computed in the graph from constants"


def test_bombs_that_only_go_off_when_run_are_loaded_and_not_run() -> None:
    nodes = [zoo.node("ConstantOfShape", ["shape"], ["big"]), zoo.node("Add", ["x", "big"], ["y"])]
    shape = {"shape": np.array([2**20, 2**20], dtype=np.int64)}
    load_model(zoo.model_of(nodes, [zoo.floats("x", 1)], ["y"], shape))


def test_objects_of_other_types_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="type int is not known"):
        load_model(42)


# External data


def external(folder: Path, location: str = "weights.bin", **fields: str) -> Path:
    """A model whose first weight is external, with `weights.bin` beside it; `fields` replace offset and length."""
    model = zoo.mlp()
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    (folder / "weights.bin").write_bytes(b"pad!" + data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "4", "length": str(len(data)), **fields}.items():
        if value:
            tensor.external_data.add(key=key, value=value)
    return save(model, folder / "m.onnx")


def test_external_data_is_loaded_into_the_model(tmp_path: Path) -> None:
    path = external(tmp_path)
    loaded = load_model(path)
    assert not any(t.data_location == TensorProto.EXTERNAL for t in loaded.model.graph.initializer)
    assert_same(zoo.mlp(), loaded.model, zoo.feeds(zoo.mlp()))
    assert loaded.source_digest != hashlib.sha256(path.read_bytes()).hexdigest()


def test_digest_covers_file_and_external_data(tmp_path: Path) -> None:
    plain = save(zoo.mlp(), tmp_path / "plain.onnx")
    assert load_model(plain).source_digest == hashlib.sha256(plain.read_bytes()).hexdigest()
    before = load_model(external(tmp_path)).source_digest
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert load_model(tmp_path / "m.onnx").source_digest != before


def test_external_data_in_a_sub_folder_and_without_length(tmp_path: Path) -> None:
    path = external(tmp_path, "data/weights.bin", length="")
    (tmp_path / "data").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "data" / "weights.bin")
    assert len(load_model(path).inspection.layers) == 2


@pytest.mark.parametrize(
    "location",
    ["../secret", "sub/../../secret", "/etc/passwd", "", "..\\secret", "C:\\secret", "\\\\server\\x", "a\0b"],
)
def test_external_paths_out_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"x" * 5000)
    refused(external(inside, location), "plain relative paths")


@pytest.mark.parametrize("location", ["gone.bin", "*/_ORT_MEM_ADDR_/*"])
def test_missing_external_file(tmp_path: Path, location: str) -> None:
    refused(external(tmp_path, location), "is missing")


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "pipe", "folder", "linked folder"])
def test_external_data_that_is_no_plain_file(tmp_path: Path, kind: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 5000)
    path = external(inside, "there/w" if kind == "linked folder" else "w")
    if kind == "symlink":
        (inside / "w").symlink_to(secret)
    elif kind == "hardlink":
        (inside / "w").hardlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(inside / "w")
    elif kind == "folder":
        (inside / "w").mkdir()
    else:
        (inside / "there").symlink_to(tmp_path)
        secret.rename(tmp_path / "w")
    refused(path, "copy the real file beside the model")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"offset": "-4"}, "is no size"),
        ({"offset": str(2**40)}, "cut off"),
        ({"offset": "9"}, "cut off"),
        ({"length": str(2**50)}, "its shape needs 2048 bytes"),
        ({"length": "1e3"}, "is no size"),
        ({"__class__": "x"}, "unknown or repeated keys"),
    ],
)
def test_external_fields_are_checked(tmp_path: Path, fields: dict[str, str], words: str) -> None:
    refused(external(tmp_path, **fields), words)


def test_external_shape_beyond_memory(tmp_path: Path) -> None:
    model = onnx.load(external(tmp_path, length=""), load_external_data=False)
    model.graph.initializer[0].dims[0] = 2**40
    refused(save(model, tmp_path / "m.onnx"), "2 GiB is the most")


def test_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    model = onnx.load(external(tmp_path), load_external_data=False)
    with pytest.raises(DataError, match="give the path"):
        load_model(model)
