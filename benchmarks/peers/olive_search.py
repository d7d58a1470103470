"""Olive's search over its quantisation pass, with its own latency and our accuracy. Run in an environment of its own.

python olive_search.py DATA OUT TRIALS
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import olive
from data import Data

USER = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {here!r})
from data import Data
from olive.data.registry import Registry

DATA = Data(Path({folder!r}))


def shapes(sample):
    return tuple(sorted((name, array.shape) for name, array in sample.items()))


# Olive puts all outputs into one tensor, so its samples must have one shape: the most frequent.
ALIKE = max(set(map(shapes, DATA.validation)), key=list(map(shapes, DATA.validation)).count)
KEPT = [i for i, sample in enumerate(DATA.validation) if shapes(sample) == ALIKE]
CLASSES = {{label: number for number, label in enumerate(sorted(set(DATA.labels)), start=1)}}  # 0: none of them


class Samples(torch.utils.data.Dataset):
    def __init__(self, samples, labels):
        self.samples, self.labels = samples, labels

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        inputs = {{name: torch.from_numpy(array[0].copy()) for name, array in self.samples[index].items()}}
        return inputs, CLASSES[self.labels[index]]


@Registry.register_dataset()
def calibration(**_):
    return Samples(DATA.calibration, [DATA.labels[0]] * len(DATA.calibration))


@Registry.register_dataset()
def validation(**_):
    return Samples([DATA.validation[i] for i in KEPT], [DATA.labels[i] for i in KEPT])


@Registry.register_post_process()
def read(outputs, **_):
    array = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs.values()))
    return torch.tensor([CLASSES.get(DATA.decode([row[None].numpy()]), 0) for row in array])
"""


def main() -> None:
    folder, out, trials = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    data = Data(folder)
    script = out / "user.py"
    script.write_text(USER.format(here=str(Path(__file__).parent), folder=str(folder)))
    shapes = {name: list(array.shape) for name, array in data.calibration[0].items()}
    types = {name: str(array.dtype) for name, array in data.calibration[0].items()}
    inputs, labelled = (
        {
            "name": name,
            "user_script": str(script),
            "load_dataset_config": {"type": name},
            "dataloader_config": {"batch_size": 1},
            "post_process_data_config": {"type": "read"},
        }
        for name in ("calibration", "validation")
    )
    dummy = {
        "name": "dummy",
        "type": "DummyDataContainer",
        "load_dataset_config": {
            "input_names": list(shapes), "input_shapes": list(shapes.values()), "input_types": list(types.values()),
        },
    }  # fmt: skip
    classes = len(set(data.labels)) + 1
    accuracy = {  # Olive's custom metric cannot be used: its own configuration does not survive being written down
        "name": "accuracy",
        "type": "accuracy",
        "data_config": "validation",
        "sub_types": [{"name": "accuracy_score", "priority": 1, "goal": {"type": "max-degradation", "value": 0.05},
                       "metric_config": {"task": "multiclass", "num_classes": classes}}],
    }  # fmt: skip
    latency = {
        "name": "latency",
        "type": "latency",
        "data_config": "dummy",
        "sub_types": [{"name": "avg", "priority": 2, "goal": {"type": "percent-min-improvement", "value": 1}}],
    }
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(data.model)},
        "data_configs": [inputs, labelled, dummy],
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "evaluators": {"both": {"metrics": [accuracy, latency]}},
        "passes": {"quantise": {"type": "OnnxQuantization", "data_config": "calibration"}},
        "search_strategy": {
            "execution_order": "joint", "sampler": "tpe", "sampler_config": {"max_samples": trials, "seed": 0},
            "max_iter": trials,
        },
        "evaluator": "both",
        "host": "here",
        "target": "here",
        "cache_dir": str(out / "cache"),
        "output_dir": str(out / "output"),
        "log_severity_level": 2,
    }  # fmt: skip
    for pass_config in config["passes"].values():
        for name in ("quant_mode", "per_channel", "precision", "reduce_range", "quant_preprocess", "quant_format",
                     "calibrate_method", "activation_type"):  # fmt: skip
            pass_config[name] = "SEARCHABLE_VALUES"
    olive.run(config)
    found = sorted(path for path in (out / "cache").rglob("*.onnx"))
    for number, path in enumerate(found):
        shutil.copyfile(path, out / f"{number:03d}.onnx")


if __name__ == "__main__":
    main()
