"""What is read out of TensorRT's own descriptions of layers, in the spellings of its versions."""

from __future__ import annotations

import json

import pytest

from hwprofiles.measurement import Kernel
from hwprofiles.runtimes import tensorrt_layers

# As TensorRT-RTX 1.7.1 logs it while it builds.
LINEAR = "Format: (Linear) Row major linear format }"
LOGGED = (
    "Layers:\n"
    "Name: __mye28_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, "
    "Metadata: \n"
    "Name: node_of_h_myl0_1, LayerType: gemm, "
    f"Inputs: [ {{ Name: x, Dimensions: [-1,8], Strides: [8,1], StrideOrder: [1,0], Datatype: Float, {LINEAR}], "
    f"Constants: [ {{ Name: w_constant, Dimensions: [8,4], StrideOrder: [1,0], Datatype: Int8, {LINEAR}, "
    f"{{ Name: alpha, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, {LINEAR}], "
    f"Outputs: [ {{ Name: y, Dimensions: [-1,4], Strides: [4,1], StrideOrder: [1,0], Datatype: Float, {LINEAR}], "
    "TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: node_of_h]\x1f[ONNX Layer: node_of_y]\n\n"
    "I/O Tensors:\n Name: x, IOMode: Input, DataType: Float, Dimensions: [-1,8], Location: Device"
)
# TensorRT 10 by trtexec --exportLayerInfo: types and formats in one text, names without separators.
TEN = {
    "Name": "/conv1/Conv + /relu/Relu",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {
            "Name": "a",
            "Dimensions": [1, 64, 56, 56],
            "Format/Datatype": "Channel major FP16 format where channel % 8 == 0",
        }
    ],
    "Outputs": [{"Name": "b", "Dimensions": [1, 64, 56, 56], "Format/Datatype": "Half"}],
    "TacticName": "sm80_xmma_fprop",
    "Metadata": "[ONNX Layer: /conv1/Conv][ONNX Layer: /relu/Relu]",
}


def test_the_builder_s_log_has_the_layers() -> None:
    stub, gemm = tensorrt_layers.logged(LOGGED)
    assert stub["LayerType"] == "shape_call" and tensorrt_layers.nodes_of(stub) == []
    types = {"node_of_h": "MATRIX_MULTIPLY", "node_of_y": "ACTIVATION"}
    kernel = Kernel.model_validate(tensorrt_layers.kernel(gemm, "TensorRT-RTX", types, 1e-6))
    assert (kernel.node, kernel.op) == ("node_of_h + node_of_y", "MatMul:int8")
    assert kernel.inputs == ("float32[-1,8]", "int8[8,4]", "float32[1]") and kernel.outputs == ("float32[-1,4]",)


def test_the_inspector_s_json_has_them_too() -> None:
    (layer,) = tensorrt_layers.inspected(json.dumps({"Layers": [TEN], "Bindings": ["a", "b"]}))
    kernel = tensorrt_layers.kernel(layer, "TensorRT", {"/conv1/Conv": "CONVOLUTION"}, 0.0)
    assert (kernel["node"], kernel["op"]) == ("/conv1/Conv + /relu/Relu", "Conv:float16")
    assert kernel["inputs"] == ["float16[1,64,56,56]"]


def test_an_engine_without_details_has_none() -> None:
    assert tensorrt_layers.inspected('{"Layers": ["node_a", "node_b"]}') == []


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Float", "float32"),
        ("Half", "float16"),
        ("BFloat16", "bfloat16"),
        ("FP8", "fp8"),
        ("Int8", "int8"),
        ("UInt8", "uint8"),
        ("INT4", "int4"),
        ("FP4", "fp4"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Row major linear FP32", "float32"),
        ("Row major linear BF16 format (kLINEAR)", "bfloat16"),
    ],
)
def test_types_have_one_name_each(said: str, kind: str) -> None:
    layer = {"Inputs": [{"Name": "a", "Dimensions": [1], "Datatype": said}]}
    assert tensorrt_layers.precision(layer) == kind


def test_indices_say_nothing_of_precision() -> None:
    layer = {
        "Inputs": [
            {"Name": "i", "Dimensions": [4], "Datatype": "Int64"},
            {"Name": "t", "Dimensions": [9], "Datatype": "Half"},
        ]
    }
    assert tensorrt_layers.precision(layer) == "float16"
    assert tensorrt_layers.precision({"Inputs": [{"Name": "i", "Dimensions": [4], "Datatype": "Int64"}]}) == "int64"
    assert tensorrt_layers.precision({}) == "unknown"


# A transformer's block as Myelin compiles it: one layer of the engine for two layers of the model.
REGION = {
    "Name": "{ForeignNode[q...down]}",
    "LayerType": "kgen",
    "Inputs": [{"Name": "x", "Dimensions": [1, 64], "Datatype": "Half"}],
    "Constants": [
        {"Name": "w", "Dimensions": [64, 64], "Datatype": "Int8"},
        {"Name": "s", "Dimensions": [64], "Datatype": "Float"},
    ],
    "Outputs": [{"Name": "y", "Dimensions": [1, 64], "Datatype": "Half"}],
    "Metadata": "[ONNX Layer: up][ONNX Layer: gelu][ONNX Layer: down]",
}


def test_a_region_with_several_products_has_all_of_its_types() -> None:
    types = {"up": "MATRIX_MULTIPLY", "gelu": "ACTIVATION", "down": "MATRIX_MULTIPLY"}
    assert tensorrt_layers.kernel(REGION, "TensorRT", types, 0.0)["op"] == "MatMul:int8+float16+float32"
    types["down"] = "ELEMENTWISE"  # one product and what was fused into it: its narrowest type is what it got
    assert tensorrt_layers.kernel(REGION, "TensorRT", types, 0.0)["op"] == "MatMul:int8"


def test_what_is_no_json_has_no_layers() -> None:
    assert tensorrt_layers.inspected('{"Layers": [{"Name": "a"b"}]}') == []
    assert tensorrt_layers.inspected("") == []
