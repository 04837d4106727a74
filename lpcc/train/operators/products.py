"""Products of matrices and tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)

from lpcc.train.operators.call import Call, Kernel, Lowering, Tensor, always


def gemm(call: Call) -> Kernel:
    """`alpha * A' B' + beta * C`, where A' and B' are A and B, or under transA and transB their transposes."""
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    turn_a, turn_b = bool(call.integer("transA", 0)), bool(call.integer("transB", 0))

    def kernel(a: Tensor, b: Tensor, c: Tensor = None) -> Tensor:
        a = a.t() if turn_a else a
        if alpha == beta == 1.0 and (c is None or (c.dim() == 1 and c.shape[0] == b.shape[0 if turn_b else 1])):
            return F.linear(a, b if turn_b else b.t(), c)
        b = b.t() if turn_b else b
        if not a.is_floating_point():
            product = torch.matmul(a, b) * int(alpha)
            return product if c is None else product + int(beta) * c
        return torch.matmul(a, b) * alpha if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return kernel


def einsum(call: Call) -> Kernel:
    """The sum of products that the equation states."""
    equation = call.text("equation", "").replace(" ", "")
    return lambda *tensors: torch.einsum(equation, *tensors)


def matmul_integer(a: Tensor, b: Tensor, a_zero: Tensor = None, b_zero: Tensor = None) -> Tensor:
    """(A - its zero point) (B - its zero point), in integers.

    Integers that are held as reals, as fake quantisation has them, stay reals, so that gradients pass.
    """
    held = a.is_floating_point() or b.is_floating_point()
    to = torch.promote_types(a.dtype, b.dtype) if held else torch.int32
    a, b = a.to(to), b.to(to)
    if a_zero is not None:
        a = a - (a_zero.to(to).unsqueeze(-1) if a_zero.dim() == 1 and a_zero.numel() > 1 else a_zero.to(to))
    if b_zero is not None:
        b = b - b_zero.to(to)
    return torch.matmul(a, b)


def fused_matmul(call: Call) -> Kernel:
    """`alpha * A' B'`, where A' and B' are A and B, or under transA and transB with their last two axes exchanged."""
    alpha = call.real("alpha", 1.0)
    turns = [bool(call.integer(name, 0)) for name in ("transA", "transB")]
    batches = [bool(call.integer(name, 0)) for name in ("transBatchA", "transBatchB")]

    def turned(x: Tensor, turn: bool, batch: bool) -> Tensor:
        if x.dim() < 2:
            return x
        if batch:
            x = x.movedim(0, -2)
        return x.transpose(-1, -2) if turn else x

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        product = torch.matmul(turned(a, turns[0], batches[0]), turned(b, turns[1], batches[1]))
        return product if alpha == 1.0 else product * alpha

    return kernel


STANDARD: Mapping[str, Lowering] = {
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": always(torch.matmul),
    "MatMulInteger": always(matmul_integer),
}

MICROSOFT: Mapping[str, Lowering] = {"FusedMatMul": fused_matmul}
