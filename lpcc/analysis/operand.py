"""What kernels read and write."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Operand:
    """An activation that a kernel reads or writes, in the form in which the runtime holds it."""

    tensor: gs.Tensor
    nbytes: int
    elements: int = 0
