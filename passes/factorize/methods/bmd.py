"""The method `bmd`: a layer of columns, then one of rows."""

from __future__ import annotations

from typing import ClassVar

from lpcc.passes.factorize.form import Form
from lpcc.passes.factorize.methods.pair import Pair


class Bmd(Pair):
    """``W[n, c, y, x] = sum_k V[k, c, y] H[n, k, x]``: a layer h x 1 from C to K channels, then one 1 x w from K to N.

    W as the matrix (C h) x (w N), its SVD cut at K: the closed-form global optimum (Tai et al. 2015, arXiv 1511.06067).
    With them and in the survey of Cheng et al. (arXiv 1710.09282) a batch norm is between the two (`emit.Norm`).
    With moments the matrix is cut in the metric of the columns that the first layer reads, and the second layer is
    brought closest to the output by least squares.

    Of the axes along which the kernel is larger than 1, the first layer moves along the first half, rounded down, and
    the second along the others: of a 1-D kernel the first layer has one pixel, of a 3-D one it moves along the depth.
    Where the kernel is 1, strides and padding go to the first. Kernels of one pixel, Gemm and MatMul are as in `Svd`.

    Grouped and depthwise layers stay grouped, with K channels in each group. Declined where rank 1 has no fewer
    weights.
    """

    name: ClassVar[str] = "bmd"

    @staticmethod
    def ahead(form: Form) -> tuple[int, ...]:
        """See the base class."""
        larger = [axis for axis, size in enumerate(form.kernel) if size > 1]
        behind = larger[len(larger) // 2 :]
        return tuple(axis for axis in range(len(form.kernel)) if axis not in behind)
