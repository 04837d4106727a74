"""Whose integer kernels a target has, and a model that stands in for them."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

import onnx

from lpcc.errors import UsageError
from lpcc.graph import from_proto, to_proto
from lpcc.simulate.arm import sums_in_fixed_point
from lpcc.simulate.saturating import with_saturation
from lpcc.simulate.signs import with_activations

if TYPE_CHECKING:
    from lpcc.target import Target

Kernels = Literal["arm", "x86-vnni", "x86-novnni"]
"""onnxruntime's integer kernels that do not round and saturate alike."""

KERNELS: tuple[Kernels, ...] = get_args(Kernels)


def kernels_of(target: Target) -> Kernels | None:
    """The kernels that run on a target; None where they are not onnxruntime's, or there are none for integers."""
    if target.runtime != "onnxruntime" or target.int8 is None:
        return None
    if "x86" in target.isa:
        return "x86-vnni" if "vnni" in target.isa else "x86-novnni"
    return "arm" if "neon" in target.isa else None


def kernels_named(name: str) -> Kernels:
    """The kernels of that name, as ``--emulate`` gives it.

    Raises:
        UsageError: there are no such ones; the message has the nearest name and all.
    """
    for known in KERNELS:
        if name == known:
            return known
    close = get_close_matches(name, KERNELS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"--emulate {name}: unknown kernels; {hint}known: {', '.join(KERNELS)}")


@cache
def kernels_here() -> Kernels | None:
    """The kernels of this machine; None where it is not known."""
    from lpcc.target import Target

    try:
        return kernels_of(Target.load("host"))
    except UsageError:
        return None


def stand_in(model: onnx.ModelProto, kernels: Kernels, here: Kernels | None) -> onnx.ModelProto:
    """A model that gives with the kernels `here` what `model` gives with others; `model` itself where they are these.

    To be run with ``Session(..., signed=True)``. Layers that are not in Q/DQ form stay what they are.
    """
    if kernels == here:
        return model
    graph = from_proto(model)
    if kernels == "x86-novnni":
        with_activations(graph, "u8")  # as onnxruntime does there
        with_saturation(graph)
    else:
        # Fast kernels here, which is more of them than onnxruntime finds; but not those that saturate.
        with_activations(graph, "s8" if here == "x86-novnni" else "u8")
    if kernels == "arm":
        sums_in_fixed_point(graph)
    return to_proto(graph)
