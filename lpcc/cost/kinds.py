"""The words that targets, kernel tables and the kernel analysis share."""

from __future__ import annotations

MAC_KINDS = ("conv", "pointwise", "depthwise", "gemm", "matmul")
"""Kernels that multiply and accumulate: KxK, 1x1 and depthwise convolution, fully connected, other matrix products."""

ELEMENT_KINDS = (
    "elementwise",
    "activation",
    "pool",
    "concat",
    "copy",
    "transpose",
    "resize",
    "reduce",
    "softmax",
    "norm",
    "quantize",
    "dequantize",
    "other",
)
"""All other kernels. `elementwise` are cheap functions (Add, Relu), `activation` transcendental ones (Sigmoid)."""

FORMATS = ("float32", "float16", "int8", "u8s8", "s8s8", "u8u8", "s8u8")
"""Number formats of kernels; an int8 scheme (activations, weights) stands where it differs from other ``int8``."""
