"""Operators of onnxruntime's that are an operator of ONNX's and its activation in one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, Unsupported
from lpcc.train.operators.convolution import conv
from lpcc.train.operators.products import gemm


def fused_conv(call: Call) -> Kernel:
    """An activation of Conv, with a fourth input added before it."""
    convolve, activation = conv(call), _activation(call, call.reals("activation_params") or [])

    def kernel(x: Tensor, w: Tensor, b: Tensor = None, z: Tensor = None) -> Tensor:
        y = convolve(x, w, b)
        return activation(y if z is None else y + z)

    return kernel


def fused_gemm(call: Call) -> Kernel:
    """An activation of Gemm."""
    stated = [call.attrs.get("activation_alpha"), call.attrs.get("activation_beta")]
    product, activation = gemm(call), _activation(call, [float(value) for value in stated if value is not None])
    return lambda *inputs: activation(product(*inputs))


def _activation(call: Call, given: list[float]) -> Kernel:
    name = call.text("activation", "")
    a, b = [*given, *[0.01, 0.0][len(given) :]][:2]
    functions: dict[str, Kernel] = {
        "": lambda x: x,
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "LeakyRelu": lambda x: F.leaky_relu(x, a),
        "Clip": lambda x: torch.clamp(x, a, b),
        "HardSigmoid": lambda x: torch.clamp(a * x + b, 0, 1),
    }
    if name not in functions or (name in ("Clip", "HardSigmoid") and len(given) != 2):
        raise Unsupported(f"activation={name} with parameters {given} is not known")
    return functions[name]


MICROSOFT: Mapping[str, Lowering] = {"FusedConv": fused_conv, "FusedGemm": fused_gemm}
