"""ONNX operators in torch, with gradients; one file per family, `table` holds them all."""
