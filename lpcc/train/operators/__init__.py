"""The operators of ONNX in torch."""
