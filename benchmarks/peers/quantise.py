"""One tool's quantisers over one model, each format once, with its defaults. Run in the tool's own environment.

python quantise.py TOOL DATA OUT [FORMAT/LABEL ...]

DATA holds `model.onnx` and `calibration.npz`. Writes OUT/FORMAT/LABEL.onnx for the formats `w4-b32`, `int8-static` and
`int8-dynamic`, as far as the tool has them, or those that are named, and OUT/told.json: seconds of CPU, or why there is
no file, and nothing of an attempt that has begun and not ended. What OUT/told.json tells already is not tried again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from data import Reader, _samples

Attempt = Callable[[Path], None]


def onnxruntime_tools(model: Path, inputs: list[dict[str, np.ndarray]]) -> dict[str, Attempt]:
    """What ONNX Runtime itself brings."""
    import onnxruntime.quantization as tools
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    class Inputs(Reader, tools.CalibrationDataReader):
        """The same under the class that the tool asks for."""

    def four_bits(out: Path) -> None:
        made = MatMulNBitsQuantizer(onnx.load(model), bits=4, block_size=32, is_symmetric=True)
        made.process()
        made.model.save_model_to_file(str(out), False)

    return {
        "w4-b32/nearest": four_bits,
        "int8-static/minmax": lambda out: tools.quantize_static(model, out, Inputs(inputs), per_channel=True),
        "int8-dynamic/nearest": lambda out: tools.quantize_dynamic(model, out, per_channel=True),
    }


def neural_compressor(model: Path, inputs: list[dict[str, np.ndarray]]) -> dict[str, Attempt]:
    import onnxruntime.quantization as tools
    from onnx_neural_compressor.data_reader import CalibrationDataReader
    from onnx_neural_compressor.quantization import QuantFormat, config
    from onnx_neural_compressor.quantization import algorithm_entry as entry

    class Inputs(Reader, CalibrationDataReader):
        """The same under the class that the tool asks for."""

    reader, alike = Inputs(inputs), Inputs(_alike(inputs))  # AWQ and SmoothQuant put all activations into one array
    common: dict[str, Any] = {"calibration_data_reader": reader, "execution_provider": "CPUExecutionProvider"}
    blocks: dict[str, Any] = {"weight_bits": 4, "weight_group_size": 32, "weight_sym": True}
    minmax = tools.CalibrationMethod.MinMax

    def static(form: Any) -> Attempt:
        def made(out: Path) -> None:
            asked = config.StaticQuantConfig(quant_format=form, per_channel=True, calibrate_method=minmax, **common)
            entry.static_quantize_entry(str(model), asked, reader, model_output=str(out))

        return made

    def smooth(out: Path) -> None:
        asked = config.SmoothQuantConfig(**{**common, "calibration_data_reader": alike})
        entry.smooth_quant_entry(str(model), asked, alike, model_output=str(out))
        onnx.save(onnx.load(out), out)  # it puts the weights into a second file

    def dynamic(out: Path) -> None:
        asked = config.DynamicQuantConfig(per_channel=True, execution_provider="CPUExecutionProvider")
        entry.dynamic_quantize_entry(str(model), asked, model_output=str(out))

    return {
        "w4-b32/rtn": lambda out: onnx.save(entry.rtn_quantize_entry(str(model), config.RTNConfig(**blocks)), out),
        "w4-b32/gptq": lambda out: onnx.save(
            entry.gptq_quantize_entry(str(model), config.GPTQConfig(**blocks), reader), out
        ),
        "w4-b32/awq": lambda out: onnx.save(
            entry.awq_quantize_entry(str(model), config.AWQConfig(**blocks), alike), out
        ),
        "int8-static/minmax": static(QuantFormat.QOperator),
        "int8-static/minmax, QDQ": static(QuantFormat.QDQ),
        "int8-static/smoothquant": smooth,
        "int8-dynamic/nearest": dynamic,
    }


def nncf(model: Path, inputs: list[dict[str, np.ndarray]]) -> dict[str, Attempt]:
    import nncf as tool

    def loaded() -> onnx.ModelProto:
        return _without_casts_of_constants(onnx.load(model))  # NNCF asks them for a type that tensors do not have

    def static(**options: Any) -> Attempt:
        size = {"subset_size": len(inputs)}
        return lambda out: onnx.save(tool.quantize(loaded(), tool.Dataset(inputs), **size, **options), out)

    def weights(**options: Any) -> Attempt:
        # Not every channel is a multiple of 32: then the tool asks to be told what it may do.
        adjust = tool.AdvancedCompressionParameters(group_size_fallback_mode=tool.GroupSizeFallbackMode.ADJUST)
        four = {"mode": tool.CompressWeightsMode.INT4_SYM, "group_size": 32, "advanced_parameters": adjust}
        return lambda out: onnx.save(_with_vectors_of_scales(tool.compress_weights(loaded(), **four, **options)), out)

    data = {"dataset": tool.Dataset(inputs), "subset_size": len(inputs)}
    return {
        "w4-b32/nearest": weights(),
        "w4-b32/awq": weights(awq=True, **data),
        "w4-b32/scale estimation": weights(scale_estimation=True, **data),
        "int8-static/mixed": static(preset=tool.QuantizationPreset.MIXED),
        "int8-static/transformer": static(model_type=tool.ModelType.TRANSFORMER),
    }


def modelopt(model: Path, inputs: list[dict[str, np.ndarray]]) -> dict[str, Attempt]:
    from modelopt.onnx.quantization import quantize

    class Inputs(Reader):
        """With the methods that the tool asks for: AWQ iterates."""

        def get_first(self) -> dict[str, np.ndarray]:
            return self._inputs[0]

        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            return iter(self._inputs)

    def made(mode: str, method: str, **options: Any) -> Attempt:
        reader = Inputs(_alike(inputs) if method == "awq_clip" else inputs)  # AWQ puts all activations into one array
        return lambda out: quantize(
            str(model), quantize_mode=mode, calibration_method=method, calibration_data_reader=reader,
            calibration_eps=["cpu"], output_path=str(out), high_precision_dtype="fp32", **options,
        )  # fmt: skip

    return {
        "int8-static/max": made("int8", "max"),
        "int8-static/entropy": made("int8", "entropy"),
        "w4-b32/rtn": made("int4", "rtn_dq", block_size=32),
        "w4-b32/awq": made("int4", "awq_clip", block_size=32),
    }


def aimet(model: Path, inputs: list[dict[str, np.ndarray]]) -> dict[str, Attempt]:
    import aimet_onnx

    def static(out: Path, *, adaround: bool = False) -> None:
        simulated = aimet_onnx.QuantizationSimModel(
            onnx.load(model), param_type=aimet_onnx.int8, activation_type=aimet_onnx.int8,
            providers=["CPUExecutionProvider"],
        )  # fmt: skip
        if adaround:
            aimet_onnx.apply_adaround(simulated, inputs, num_iterations=500)
        simulated.compute_encodings(inputs)
        onnx.save(simulated.to_onnx_qdq(), out)

    return {
        "int8-static/minmax": static,
        "int8-static/adaround": lambda out: static(out, adaround=True),
    }


def _alike(inputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Those of the most frequent shapes."""
    shapes = [tuple(sorted((name, array.shape) for name, array in each.items())) for each in inputs]
    often = max(shapes, key=shapes.count)
    return [each for each, shape in zip(inputs, shapes, strict=True) if shape == often]


def _without_casts_of_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with casts of stored tensors carried out."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in stored]:
        to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
        array = onnx.numpy_helper.to_array(stored[node.input[0]]).astype(onnx.helper.tensor_dtype_to_np_dtype(to))
        graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)
    return model


def _with_vectors_of_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with one scale per channel in a tensor of one axis, as the operator's definition wants it.

    NNCF writes `[16, 1, 1]` for a convolution in 8 bit. The numbers stay.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and not any(
            each.name == "block_size" and each.i for each in node.attribute
        ):
            for tensor in (stored[name] for name in node.input[1:] if name in stored):
                if len(tensor.dims) > 1 and max(tensor.dims) == np.prod(tensor.dims):
                    tensor.dims[:] = [max(tensor.dims)]
    return model


TOOLS = {
    "onnxruntime": onnxruntime_tools,
    "neural-compressor": neural_compressor,
    "nncf": nncf,
    "modelopt": modelopt,
    "aimet": aimet,
}


def main() -> None:
    tool, folder, out, only = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
    told: dict[str, Any] = json.loads((out / "told.json").read_text()) if (out / "told.json").exists() else {}
    for name, attempt in TOOLS[tool](folder / "model.onnx", _samples(folder / "calibration.npz")).items():
        if name in told or (only and name not in only):
            continue
        file = out / f"{name}.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        begun = time.process_time()
        told[name] = {}
        (out / "told.json").write_text(json.dumps(told))
        try:
            attempt(file)
            told[name] = {"cpu_s": round(time.process_time() - begun, 1)}
        except (Exception, SystemExit) as error:  # noqa: BLE001 what the tool cannot do is reported, the rest goes on
            told[name] = {"failed": f"{type(error).__name__}: {str(error).strip()[:200]}"}
        print(name, told[name], flush=True)
        (out / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
