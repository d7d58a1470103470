"""How each runtime family wants a decision written in ONNX, one file (or family of files) each."""
