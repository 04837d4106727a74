"""Elementwise nodes without effect, and pairs of them that are one. Rules of `remove-noops`."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.bounds import clip_bounds, is_never_negative
from lpcc.analysis.purity import trains
from lpcc.door.lazy import elem_type
from lpcc.passes.normalize.site import Rewrite, Same, Site

_FLOATS: Final = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
_FIRST_MULTIDIRECTIONAL: Final = 7
_FIRST_CLIP_INPUTS: Final = 11


def first(site: Site) -> gs.Tensor | None:
    """Identity, and operators that take any number of inputs and have one."""
    return site.x if len(site.node.inputs) == 1 else None


def dropout(site: Site) -> gs.Tensor | None:
    """Dropout outside training."""
    return None if trains(site.node, site.opset) else site.x


def cast(site: Site) -> gs.Tensor | None:
    """A Cast to the type that the data has, and a Cast back from a type that holds all its values."""
    to = edit.attr(site.node, "to")
    if site.x.dtype is None:
        return None
    if elem_type(site.x.dtype) == to:
        return site.x
    before = site.maker("Cast")
    if before is None:
        return None
    source = before.inputs[0]
    if source.dtype is None or elem_type(source.dtype) != to or not _holds(site.x.dtype, source.dtype):
        return None
    return source


def _holds(wide: np.dtype, narrow: np.dtype) -> bool:
    """Whether one type holds every value of another exactly."""
    if wide.kind not in "iuf" or narrow.kind not in "biuf":
        return False
    if narrow.kind in "iu" and wide.kind == "f":
        return 8 * narrow.itemsize <= int(np.finfo(wide).nmant)
    return bool(np.can_cast(narrow, wide, "safe"))


def neutral(site: Site) -> gs.Tensor | None:
    """``x + 0``, ``x - 0``, ``x * 1``, ``x / 1``, ``x ** 1`` and their Boolean kin, where they keep the shape of x."""
    element, commutes = _NEUTRAL[edit.op(site.node)]
    if site.opset < _FIRST_MULTIDIRECTIONAL or len(site.node.inputs) != 2:
        return None
    for data, other in ((0, 1), (1, 0)) if commutes else ((0, 1),):
        x, constant = site.node.inputs[data], site.node.inputs[other]
        if _is_filled(constant, element) and (constant.shape == () or site.keeps_shape(x)):
            return x
    return None


_NEUTRAL: Final[dict[str, tuple[float, bool]]] = {
    "Add": (0, True),
    "Sub": (0, False),
    "Mul": (1, True),
    "Div": (1, False),
    "Pow": (1, False),
    "And": (1, True),
    "Or": (0, True),
    "Xor": (0, True),
}


def _is_filled(tensor: gs.Tensor, element: float) -> bool:
    if not isinstance(tensor, gs.Constant) or tensor.dtype is None or 0 in tensor.shape:
        return False
    if np.dtype(tensor.dtype).kind not in "biuf":
        return False
    return bool(np.all(tensor.values == element))


def relu(site: Site) -> gs.Tensor | None:
    """A Relu of what is not negative anyway."""
    before = site.maker(site.made_by) if site.made_by else None
    return site.x if before is not None and is_never_negative(before) else None


def twice(site: Site) -> gs.Tensor | None:
    """A Neg of a Neg, a Not of a Not."""
    before = site.maker(edit.op(site.node))
    return None if before is None else before.inputs[0]


def again(site: Site) -> gs.Tensor | None:
    """An Abs of an Abs, a Ceil of a Ceil and the like."""
    return None if site.maker(edit.op(site.node)) is None else site.x


def unbounded(site: Site) -> gs.Tensor | None:
    """A Clip without bounds."""
    empty = edit.inp(site.node, 1) is None and edit.inp(site.node, 2) is None
    return site.x if empty and site.opset >= _FIRST_CLIP_INPUTS else None


def clip_of_clip(site: Site) -> str:
    """``Clip(Relu(x))`` and ``Clip(Clip(x))``: one Clip to what both let through."""
    before = site.maker("Relu") or site.maker("Clip")
    if before is None or site.opset < _FIRST_CLIP_INPUTS or site.e.only_user(site.x) is None:
        return ""
    outer = _bounds(site.node)
    inner = (0.0, np.inf) if edit.op(before) == "Relu" else _bounds(before)
    if outer is None or inner is None or site.x.dtype not in _FLOATS:
        return ""
    low, high = max(outer[0], inner[0]), min(outer[1], inner[1])
    if not (inner[0] <= inner[1] and outer[0] <= outer[1] and low <= high):
        return ""
    _set_bound(site.e, site.node, 1, low, outer[0], site.x.dtype)
    _set_bound(site.e, site.node, 2, high, outer[1], site.x.dtype)
    site.read_past(before)
    return "Clip merged with the Relu or Clip before it"


def relu_of_clip(site: Site) -> str:
    """``Relu(Clip(x, low, high))`` with a negative `low`: a Clip from 0."""
    before = site.maker("Clip")
    if before is None or site.opset < _FIRST_CLIP_INPUTS or site.e.only_user(site.x) is None:
        return ""
    if not site.e.owns(before):  # its result may be an output of the graph around this one
        return ""
    bounds = _bounds(before)
    if bounds is None or not (bounds[0] < 0 <= bounds[1]) or site.x.dtype not in _FLOATS:
        return ""
    _set_bound(site.e, before, 1, 0.0, bounds[0], site.x.dtype)
    site.forward(site.x)
    return "Relu merged into the Clip before it"


def _bounds(node: gs.Node) -> tuple[float, float] | None:
    """Bounds of a Clip, infinite where absent; None where they are not known or not numbers."""
    low, high = clip_bounds(node)
    return None if low is None or high is None else (low, high)


def _set_bound(e: edit.Edit, clip: gs.Node, index: int, bound: float, old: float, dtype: np.dtype) -> None:
    if bound != old:
        name = f"{clip.outputs[0].name}_{'min' if index == 1 else 'max'}"
        e.replace_input(clip, index, e.constant(name, np.array(bound, dtype=dtype)))


SAME: Final[dict[str, Same]] = {
    **dict.fromkeys(("Identity", "Sum", "Max", "Min", "Mean"), first),
    **dict.fromkeys(_NEUTRAL, neutral),
    **dict.fromkeys(("Neg", "Not"), twice),
    **dict.fromkeys(("Abs", "Ceil", "Floor", "Round", "Sign"), again),
    "Cast": cast,
    "Clip": unbounded,
    "Dropout": dropout,
    "Relu": relu,
}

REWRITES: Final[dict[str, Rewrite]] = {"Clip": clip_of_clip, "Relu": relu_of_clip}
