"""The Bundle: a folder with one model and everything that proves what it is.

- `model.onnx`: byte for byte what was measured; with targets of several dialects `model-DIALECT.onnx` for the others
- `recipe.json`: technique -> layer -> choice
- `manifest.json`: sha256 and size of every file, digests of model and data, versions, metrics, how to make it again
- `evidence.json`: measurements with raw samples, judgements with the outcome of every sample
- `report.html`: the study's report
- `infer.py`: how to run it; needs onnxruntime and numpy
- `README.md`: what this is, for whoever finds the folder
"""

from autotune.bundle.export import check_destination, export_bundle
from autotune.bundle.manifest import read_manifest, verify_bundle

__all__ = ["check_destination", "export_bundle", "read_manifest", "verify_bundle"]
