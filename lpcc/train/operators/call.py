"""What an operator is given and what it gives: one node of a graph, lowered once to a function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lpcc.errors import ModelError

Tensor = Any
"""A torch tensor. torch is an extra that the type checker does not see."""

Kernel = Callable[..., Any]
"""Function of a node's inputs: tensors of the ONNX type, None for optional inputs that are missing (at the end they may
be left out). Returns a tensor, or a tuple of them for an operator with several outputs. A sequence is a list."""


class Unsupported(ModelError):  # noqa: N818  (what it says of a form)
    """This form of the operator cannot be run in torch. The message is the reason alone: the caller names the node."""


@dataclass
class Mode:
    """How a network is run at the moment; all its kernels share one."""

    training: bool = False
    """Batch norm uses the statistics of the batch and updates its running ones; Dropout drops."""

    momentum: float = 0.1
    """Share of the batch's statistics in the new running ones."""


@dataclass(frozen=True)
class Call:
    """One node: what a lowering may know before there are tensors."""

    op: str
    domain: str = ""
    """Domain of the operator; "" is the standard one."""

    opset: int = 0
    """Version of the domain that the model imports."""

    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Attributes as onnx_graphsurgeon holds them: numbers, str, lists of them; tensors as gs.Constant or arrays."""

    inputs: int = 0
    """Number of inputs that the node lists, missing ones in the middle included."""

    outputs: int = 1
    """Number of outputs that the node lists."""

    name: str = ""
    mode: Mode = field(default_factory=Mode)

    types: tuple[np.dtype[Any] | None, ...] = ()
    """ONNX type of each input, None where it is unknown or the input is missing: tensors of integers between
    QuantizeLinear and DequantizeLinear, and constants among them, are torch tensors of float32."""

    def integer(self, name: str, default: int) -> int:
        """The value of an integer attribute."""
        value = self.attrs.get(name)
        return default if value is None else int(value)

    def real(self, name: str, default: float) -> float:
        """The value of a real attribute."""
        value = self.attrs.get(name)
        return default if value is None else float(value)

    def text(self, name: str, default: str) -> str:
        """The value of a string attribute."""
        value = self.attrs.get(name)
        if value is None:
            return default
        return value.decode() if isinstance(value, bytes) else str(value)

    def integers(self, name: str) -> list[int] | None:
        """The value of an attribute that is a list of integers; None where the node has none."""
        value = self.attrs.get(name)
        return None if value is None else [int(item) for item in value]

    def reals(self, name: str) -> list[float] | None:
        """The value of an attribute that is a list of reals; None where the node has none."""
        value = self.attrs.get(name)
        return None if value is None else [float(item) for item in value]

    def texts(self, name: str) -> list[str] | None:
        """The value of an attribute that is a list of strings; None where the node has none."""
        value = self.attrs.get(name)
        return None if value is None else [item.decode() if isinstance(item, bytes) else str(item) for item in value]

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        """The value of a tensor attribute; None where the node has none."""
        value = self.attrs.get(name)
        return None if value is None else np.asarray(getattr(value, "values", value))


Lowering = Callable[[Call], Kernel]
"""Reads the attributes of a node, once; raises Unsupported for a form that it does not know."""


def always(kernel: Kernel) -> Lowering:
    """The lowering of an operator without attributes."""

    def lowering(_: Call) -> Kernel:
        return kernel

    lowering.__doc__ = kernel.__doc__ if str(getattr(kernel, "__module__", "")).startswith("lpcc.") else None
    return lowering


def as_listed(call: Call, found: tuple[Tensor, ...]) -> Any:
    """What an operator gives, of its outputs those that the node lists."""
    return found[0] if call.outputs == 1 else found[: call.outputs]
