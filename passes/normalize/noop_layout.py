"""Nodes that move data about without effect, and pairs of them that are one. Rules of `remove-noops`."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shape_rules import absent, ints
from lpcc.passes.normalize.noop_elementwise import first
from lpcc.passes.normalize.site import Rewrite, Same, Site

_VIEWS: Final = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_CENTRED: Final = frozenset(("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric"))


def kept(site: Site) -> gs.Tensor | None:
    """Operators that do nothing where they keep the shape of their data: Reshape, Expand, a mean over one element."""
    return site.x if site.keeps_shape(site.x) else None


def _perm(node: gs.Node, rank: int | None) -> list[int] | None:
    perm = edit.attr(node, "perm")
    if perm is not None:
        return list(perm)
    return None if rank is None else list(reversed(range(rank)))


def transpose(site: Site) -> gs.Tensor | None:
    """A Transpose that keeps the order of the axes, and one that undoes the one before it."""
    perm = _perm(site.node, site.found.rank(site.x))
    if perm is None:
        return None
    if perm == sorted(perm):
        return site.x
    before = site.maker("Transpose")
    inner = None if before is None else _perm(before, len(perm))
    if before is None or inner is None or [inner[axis] for axis in perm] != sorted(perm):
        return None
    return before.inputs[0]


def transpose_of_transpose(site: Site) -> str:
    """Two Transposes in a row: one of the composed order, ``perm[i] = first[second[i]]``."""
    before = site.maker("Transpose")
    perm = _perm(site.node, site.found.rank(site.x))
    inner = None if before is None or perm is None else _perm(before, len(perm))
    if before is None or perm is None or inner is None or site.e.only_user(site.x) is None:
        return ""
    site.node.attrs["perm"] = [inner[axis] for axis in perm]
    site.read_past(before)
    return "Transpose pair composed"


def reshape(site: Site) -> gs.Tensor | None:
    """A Reshape that keeps the shape, by its sizes or because its target is all zeros."""
    if site.keeps_shape(site.x):
        return site.x
    target = edit.const(edit.inp(site.node, 1))
    copies = target is not None and target.size > 0 and not target.any() and not edit.attr(site.node, "allowzero", 0)
    return site.x if copies and target is not None and site.found.rank(site.x) == target.size else None


def reshape_of_view(site: Site) -> str:
    """A Reshape of a Reshape, Flatten, Squeeze or Unsqueeze: one Reshape, if its target does not need what is between.

    A 0 in the target copies a size of the data. It stays a 0 if the Reshape before has one there, too, and becomes
    that size if it is known.
    """
    target = edit.const(edit.inp(site.node, 1))
    if site.made_by not in _VIEWS or target is None or site.e.only_user(site.x) is None:
        return ""
    before = site.e.producer(site.x)
    if before is None or (edit.attr(site.node, "allowzero", 0) and not target.all()):
        return ""
    sizes = [int(size) for size in target]
    for axis, size in enumerate(sizes):
        if size == 0:
            known = _size_between(site, before, axis)
            if known is None:
                return ""
            sizes[axis] = known
    if not np.array_equal(sizes, target):
        name = f"{site.node.outputs[0].name}_shape"
        site.e.replace_input(site.node, 1, site.e.constant(name, np.array(sizes, dtype=np.int64)))
    site.read_past(before)
    return "Reshape merged with the one before it"


def _size_between(site: Site, before: gs.Node, axis: int) -> int | None:
    """Size `axis` of what is between two Reshapes, as the target of one over both has it; None where it is unknown."""
    between, data = site.found.dims(site.x), site.found.dims(before.inputs[0])
    if between is None or data is None or axis >= len(between):
        return None
    size = between[axis]
    if isinstance(size, int):
        return size or None
    return 0 if axis < len(data) and data[axis] == size else None


def unsqueeze(site: Site) -> gs.Tensor | None:
    """A Squeeze that undoes an Unsqueeze, or the reverse; either where it keeps the shape."""
    other = "Squeeze" if edit.op(site.node) == "Unsqueeze" else "Unsqueeze"
    before, axes = site.maker(other), ints(site.node, site.found, "axes", 1)
    if before is not None and axes and sorted(axes) == sorted(ints(before, site.found, "axes", 1) or []):
        return before.inputs[0]
    if axes == []:  # for ONNX's shape inference nothing goes, for onnxruntime every axis of size 1
        return None
    return kept(site)


def pad(site: Site) -> gs.Tensor | None:
    """A Pad of no width."""
    pads = ints(site.node, site.found, "pads", 1)
    return site.x if pads is not None and not any(pads) else None


def slice_(site: Site) -> gs.Tensor | None:
    """A Slice that takes everything, forwards."""
    steps = [1] if absent(site.node, "steps", 4) else ints(site.node, site.found, "steps", 4)
    return kept(site) if steps is not None and all(step > 0 for step in steps) else None


def gather(site: Site) -> gs.Tensor | None:
    """A Gather of all indices in order."""
    indices, dims = edit.const(site.node.inputs[1]), site.found.dims(site.x)
    if indices is None or indices.ndim != 1 or not dims or dims[edit.attr(site.node, "axis", 0)] != len(indices):
        return None
    return site.x if np.array_equal(indices, np.arange(len(indices))) else None


def split(site: Site) -> gs.Tensor | None:
    """A Split into one part."""
    return site.x if len(site.node.outputs) == 1 else None


def resize(site: Site) -> gs.Tensor | None:
    """A Resize or Upsample of scale 1, where every mode reads exactly the elements that there are."""
    node = site.node
    if edit.op(node) == "Resize" and site.opset >= 11:
        if edit.attr(node, "coordinate_transformation_mode", "half_pixel") not in _CENTRED:
            return None
        if edit.inp(node, 3) is not None:
            return kept(site) if edit.attr(node, "keep_aspect_ratio_policy", "stretch") == "stretch" else None
        scales = edit.const(edit.inp(node, 2))
    else:
        scales = edit.attr(node, "scales") if "scales" in node.attrs else edit.const(edit.inp(node, 1))
    return site.x if scales is not None and len(scales) > 0 and all(scale == 1 for scale in scales) else None


def pool(site: Site) -> gs.Tensor | None:
    """A pool over one element, with stride 1 and no padding."""
    node = site.node
    kernel = edit.attr(node, "kernel_shape", [])
    still = all(k == 1 for k in kernel) and all(s == 1 for s in edit.attr(node, "strides", [1]))
    return site.x if kernel and still and not any(edit.attr(node, "pads", [0])) else None


_KEPT: Final = """Expand Flatten GlobalAveragePool GlobalMaxPool ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    Tile"""

SAME: Final[dict[str, Same]] = {
    **dict.fromkeys(_KEPT.split(), kept),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), unsqueeze),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    **dict.fromkeys(("MaxPool", "AveragePool"), pool),
    "Concat": first,
    "Gather": gather,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": slice_,
    "Split": split,
    "Transpose": transpose,
}

REWRITES: Final[dict[str, Rewrite]] = {"Transpose": transpose_of_transpose, "Reshape": reshape_of_view}
