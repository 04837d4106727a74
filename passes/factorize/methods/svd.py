"""The method `svd`: two layers, the second of one pixel."""

from __future__ import annotations

from typing import ClassVar

from lpcc.passes.factorize.form import Form
from lpcc.passes.factorize.methods.pair import Pair


class Svd(Pair):
    """``W = A B`` of rank K: a layer with the kernel of the old one from C to K channels, then one of a pixel to N.

    For Gemm, MatMul and kernels of one pixel this is the truncated SVD of the weights (Eckart and Young 1936; Denton
    et al. 2014, arXiv 1404.0736); for larger kernels it is taken over the output channels, W as (C h w) x N (Zhang et
    al. 2015, arXiv 1505.06798). With moments G the output is kept best: V are the eigenvectors of ``W^T G W``, which is
    the optimum of ``|X W - X A B|`` (reduced-rank regression). The first layer has all strides, dilations and padding.

    Grouped layers stay grouped, with K channels in each group. Declined where rank 1 has no fewer weights, as in
    depthwise layers.
    """

    name: ClassVar[str] = "svd"

    @staticmethod
    def ahead(form: Form) -> tuple[int, ...]:
        """See the base class: all."""
        return tuple(range(len(form.kernel)))
