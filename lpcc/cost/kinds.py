"""The words that targets, kernel tables and the kernel analysis share."""

from __future__ import annotations

MAC_KINDS = ("conv", "winograd", "pointwise", "depthwise", "grouped", "gemm", "matmul", "rnn")
"""Kernels that multiply and accumulate.

KxK convolution, the same by Winograd's algorithm, 1x1, depthwise and grouped convolution, fully connected (weights
known), other matrix products, recurrent layers.
"""

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

FORMATS = ("float32", "float16", "int16", "int8", "u8s8", "s8s8", "u8u8", "s8u8")
"""Number formats of kernels; an int8 scheme (activations, weights) stands where it differs from other ``int8``.

``int16`` are kernels whose activations have 16 bits and whose weights have 8.
"""

INSTRUCTIONS = ("mac", "other")
"""Classes of instructions: those that multiply and accumulate (vectors of them count as one), and all others."""

QUANTITIES = ("ns", "cycles", *INSTRUCTIONS)
"""What a kernel table may state: nanoseconds, clock cycles, executed instructions of a class."""
