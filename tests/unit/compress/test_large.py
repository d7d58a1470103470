"""Large models: weights lie in a scratch file, artifacts are the same bytes, and memory holds little of either."""

from __future__ import annotations

import gc
import hashlib
import io
import tempfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune import plugins
from autotune.compress import assembly, ingest_large, scratch
from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import Ingested, load_model
from autotune.compress.scratch import Scratch, is_storable, stored
from autotune.compress.tensors import Tensors
from autotune.compress.zoo import ZOO, build, feeds
from autotune.errors import DataError
from autotune.recipe import Recipe

WIDTH, LAYERS = 512, 12  # 1 MiB of weights each: what counts as large


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_large, "LARGE_MODEL", 1)
    monkeypatch.setattr(scratch, "LARGE", 64)


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_large, "LARGE_MODEL", 1 << 20)


def products(folder: Path, *, external: bool) -> Path:
    """A chain of products; its file."""
    draw = np.random.default_rng(0)
    scale = np.float32(WIDTH**-0.5)
    weights = [draw.standard_normal((WIDTH, WIDTH), np.float32) * scale for _ in range(LAYERS)]
    tensors = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"l{i}") for i in range(LAYERS)]
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", WIDTH])
    y = helper.make_tensor_value_info(f"x{LAYERS}", TensorProto.FLOAT, ["n", WIDTH])
    graph = helper.make_graph(nodes, "chain", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / ("external.onnx" if external else "whole.onnx")
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def assembler(ingested: Ingested, name: str, options: Mapping[str, object], bank: Path | None = None) -> Assembler:
    technique = plugins.load("hw_autotune.techniques", name)(**options)
    layers = ingested.inspection.layers
    return Assembler(ingested.model, layers, OrtCpu(), {name: technique}, bank_folder=bank)


CASES: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "original": ("sparsify", {}, {}),
    "sparsify": ("sparsify", {"method": "magnitude"}, {"l0": "zeros-50%", "l3": "2:4", "l7": "zeros-90%"}),
    "factorize": ("factorize", {"method": "plain"}, {"l1": "rank-25%", "l2": "rank-25%"}),
    "quantize": ("quantize", {}, {"l0": "w4-b32", "l1": "w8-load", "l5": "float16"}),
}


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_an_artifact_of_a_large_model_has_the_same_bytes(
    case: str, external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = products(tmp_path, external=external)
    name, options, decisions = CASES[case]
    recipe = Recipe({name: decisions})
    in_memory = load_model(path)
    assert in_memory.scratch is None
    expected = assembler(in_memory, name, options).assemble(recipe)
    monkeypatch.setattr(ingest_large, "LARGE_MODEL", 1 << 20)
    on_disk = load_model(path)
    assert on_disk.scratch is not None
    assert (on_disk.source_digest, on_disk.inspection) == (in_memory.source_digest, in_memory.inspection)
    assert on_disk.model.ByteSize() < 20_000
    made = assembler(on_disk, name, options)
    assert len(list(made.source.tensors.stored())) == LAYERS
    stream = io.BytesIO()
    made.assemble_to(stream, recipe)
    assert stream.getvalue() == made.assemble(recipe) == expected


def test_zoo_models_with_all_weights_on_disk(everything_is_large: None) -> None:
    """Folding, converting and inspecting read weights that are not in memory; the model still answers the same."""
    for name in ZOO:
        model = build(name, 17)
        given = feeds(model)
        ingested = load_model(model)
        made = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), {})
        assert ingested.scratch is not None and list(made.source.tensors.stored()), name
        for mine, theirs in zip(
            run(made.assemble(Recipe()), given), run(model.SerializeToString(), given), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5, err_msg=name)


def run(model: bytes, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    found: list[np.ndarray] = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"]).run(None, given)
    return found


def test_extra_outputs(tmp_path: Path, small_is_large: None) -> None:
    ingested = load_model(products(tmp_path, external=False))
    made = assembler(ingested, "sparsify", {})
    stream = io.BytesIO()
    made.assemble_to(stream, Recipe(), ["x1"])
    x = np.eye(WIDTH, dtype=np.float32)[:3]
    outputs = run(stream.getvalue(), {"x0": x})
    np.testing.assert_allclose(outputs[1], made.source.tensors.array("w0")[:3], rtol=1e-6)


@pytest.mark.parametrize("external", [False, True])
def test_memory_holds_a_part_of_the_model(external: bool, tmp_path: Path, small_is_large: None) -> None:
    """Python's own memory; that of protobuf is not seen here and is measured by benchmarks/technique_memory.py."""
    path = products(tmp_path, external=external)
    size = 4 * LAYERS * WIDTH**2
    assembler(load_model(path), "sparsify", {"method": "magnitude"})  # imports are made
    gc.collect()
    tracemalloc.start()
    try:
        ingested = load_model(path)
        made = assembler(ingested, "sparsify", {"method": "magnitude"})
        del ingested
        with (tmp_path / "artifact.onnx").open("wb") as file:
            made.assemble_to(file, Recipe({"sparsify": {f"l{i}": "zeros-50%" for i in range(LAYERS)}}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "artifact.onnx").stat().st_size > size
    assert peak < 0.75 * size, f"{peak / size:.2f} of the model"


def test_external_data_cannot_name_a_scratch_file(tmp_path: Path, small_is_large: None) -> None:
    """A stub is only followed where it was made; in a file it is external data like any other."""
    ingested = load_model(products(tmp_path, external=False))
    path = tmp_path / "stubs.onnx"
    path.write_bytes(ingested.model.SerializeToString())
    assert stored(ingested.model.graph.initializer[0]) is not None
    with pytest.raises(DataError, match="missing"):
        load_model(path)


@pytest.mark.parametrize("cut", [1, 1000, 1 << 20])
def test_a_large_file_that_is_cut_off(cut: int, tmp_path: Path, small_is_large: None) -> None:
    path = products(tmp_path, external=False)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match="cut off"):
        load_model(path)


def test_a_large_tensor_that_lies_about_its_shape(tmp_path: Path, small_is_large: None) -> None:
    path = products(tmp_path, external=False)
    model = onnx.load(path)
    model.graph.initializer[2].dims[0] = WIDTH - 1
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="'w2'"):
        load_model(path)


def test_a_repeated_graph_is_left_to_the_parser(tmp_path: Path, small_is_large: None) -> None:
    """Protobuf merges fields that are repeated; the walk over the file does not try to."""
    path = products(tmp_path, external=False)
    expected = onnx.load(path)
    data = path.read_bytes()
    path.write_bytes(data + onnx.ModelProto(graph=onnx.GraphProto(doc_string="more")).SerializeToString())
    ingested = load_model(path)
    made = assembler(ingested, "sparsify", {})
    assert made.source.tensors["w1"].raw_data == expected.graph.initializer[1].raw_data


def test_tables_of_tensors() -> None:
    array = np.arange(1 << 19, dtype=np.float32).reshape(512, 1024)
    table = Tensors({}, spill=True)
    table.put("large", array)
    table["other"] = numpy_helper.from_array(array + 1, "other")
    table.put("small", np.ones(3, np.float32))
    assert list(table.stored()) == ["large", "other"]
    for name, expected in (("large", array), ("other", array + 1)):
        whole = numpy_helper.from_array(expected, name)
        stream = io.BytesIO()
        table.write(name, stream)
        assert stream.getvalue() == table[name].SerializeToString() == whole.SerializeToString()
        assert table.size(name) == whole.ByteSize()
        assert table.digest(name) == hashlib.sha256(whole.raw_data).hexdigest()
        assert not table.head(name).HasField("raw_data") and tuple(table.head(name).dims) == array.shape
        np.testing.assert_array_equal(table.array(name), expected)
        with pytest.raises(ValueError):
            table.array(name)[0] = 0
    part = table.only({"large"})
    assert part.is_same("large", table) and list(part) == ["large"]
    part.put("large", array)
    assert not part.is_same("large", table)
    assert len(set(part.sizes()) & set(table.sizes())) == 0


def test_structures_on_disk_take_no_room_from_those_in_memory(
    tmp_path: Path, small_is_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "_STRUCTURE_BYTES", 0)
    ingested = load_model(products(tmp_path, external=False))
    made = assembler(ingested, "sparsify", {"method": "magnitude"})
    one, other = (Recipe({"sparsify": {"l0": choice}}) for choice in ("zeros-50%", "zeros-90%"))
    first = made.structured(one)
    made.structured(other)
    assert made.structured(one) is first
    monkeypatch.setattr(assembly, "_STRUCTURE_DISK", 3 << 19)  # room for one weight
    made.structured(Recipe({"sparsify": {"l0": "2:4"}}))
    assert made.structured(one) is not first


def test_a_tensor_with_more_than_values_stays_in_memory() -> None:
    tensor = numpy_helper.from_array(np.zeros((512, 1024), np.float32), "t")
    assert is_storable(tensor)
    tensor.doc_string = "where it comes from"
    assert not is_storable(tensor)
    assert not is_storable(numpy_helper.from_array(np.zeros(4, np.float32), "small"))


def test_the_scratch_file_goes_with_its_last_user() -> None:
    held = Scratch()
    kept = held.add_array(np.arange(6, dtype=np.int64))
    stub, array = kept.stub("t"), kept.array()
    file = held.file
    del held
    gc.collect()
    before = (stored(stub) is not None, file.closed)
    del kept
    gc.collect()
    after = (stored(stub) is not None, file.closed)
    assert (before, after) == ((True, False), (False, True))
    np.testing.assert_array_equal(array, np.arange(6))  # what is mapped stays


def test_no_room_for_a_scratch_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from autotune.errors import DiskError

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(DiskError, match="TMPDIR"):
        Scratch()
