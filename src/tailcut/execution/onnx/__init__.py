"""Export to ONNX: graphs that hold coefficients and no dense weight of a truncated layer."""
