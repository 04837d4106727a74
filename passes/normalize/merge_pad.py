"""`merge-pad`: Pad nodes go into the padding of the convolutions and pools that read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.bounds import is_never_negative
from lpcc.match import NoMatch, maker
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass


@dataclass(frozen=True)
class MergePad(LocalPass):
    """Merge Pad of zeros around the spatial axes into the Conv, AveragePool and MaxPool nodes that read it.

    A convolution pads with zeros itself: the widths add up. An average pool then counts the zeros
    (``count_include_pad=1``), as it did when they were part of its input. A max pool pads with -inf, not 0, so a Pad
    goes into it only where its input cannot be negative, being made by Relu, Clip from 0 up or the like: then a window
    that holds a real element has the same maximum.

    Left alone: other modes and values, negative widths, widths that are not constant, padding of the batch or the
    channels; nodes with ``auto_pad=SAME_*``; pools with ``ceil_mode``, with padding as wide as their window, average
    pools with dilations or with padding of their own that they do not count, max pools that give indices; a Pad that
    anything else reads, or that is a graph output.
    """

    name: ClassVar[str] = "merge-pad"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:  # noqa: ARG002
        """Merge each Pad into all of its readers, or leave it alone."""
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) != "Pad" or not node.outputs[0].outputs:
                    continue
                try:
                    _merge(e, node, int(graph.opset))
                except NoMatch as why:
                    changes.refuse(node, str(why))
                else:
                    changes.done(node, "Pad merged into the padding of its readers")
                    e.bypass(node)


def _merge(e: edit.Edit, node: gs.Node, opset: int) -> None:
    """Let all readers of a Pad do its work. Raises NoMatch, with nothing changed, if one of them cannot."""
    widths = _widths(node)
    if e.is_output(node.outputs[0]):
        raise NoMatch("it is a graph output")
    attributes = []
    readers = e.users(node.outputs[0])
    for reader in readers:
        kind = edit.op(reader)
        places = [index for index, tensor in enumerate(reader.inputs) if tensor is node.outputs[0]]
        if kind not in ("Conv", "AveragePool", "MaxPool") or places != [0]:
            raise NoMatch(f"{kind} `{edit.label(reader)}` reads it")
        if not e.owns(reader):
            raise NoMatch(f"{kind} `{edit.label(reader)}` in a nested graph reads it")
        attributes.append(_padded(e, node, reader, widths, opset))
    for reader, new in zip(readers, attributes, strict=True):
        reader.attrs.pop("auto_pad", None)
        reader.attrs.update(new)


def _widths(node: gs.Node) -> np.ndarray:
    """Widths of the zeros that a Pad adds, (2, spatial axes). Raises NoMatch if it does anything else."""
    if edit.attr(node, "mode", "constant") != "constant":
        raise NoMatch(f"its mode is {edit.attr(node, 'mode')}")
    value = edit.inp(node, 2)
    if (edit.attr(node, "value", 0.0) if value is None else edit.scalar(value)) != 0:
        raise NoMatch("it does not pad with zeros")
    pads = edit.attr(node, "pads") if "pads" in node.attrs else edit.const(edit.inp(node, 1))
    axes = edit.inp(node, 3)
    if pads is None or (axes is not None and edit.const(axes) is None):
        raise NoMatch("its widths are not constant")
    given = np.asarray(pads, dtype=np.int64).reshape(2, -1)
    if axes is None:
        widths = given
    else:
        if node.inputs[0].shape is None:
            raise NoMatch("the rank of its input is not known")
        widths = np.zeros((2, len(node.inputs[0].shape)), dtype=np.int64)
        widths[:, np.asarray(edit.const(axes))] = given
    if np.any(widths < 0):
        raise NoMatch("it crops")
    if np.any(widths[:, :2]):
        raise NoMatch("it pads the batch or the channels")
    return widths[:, 2:]


def _padded(e: edit.Edit, node: gs.Node, reader: gs.Node, widths: np.ndarray, opset: int) -> dict[str, object]:
    """Attributes with which a reader of a Pad does its work. Raises NoMatch if there are none."""
    kind, where = edit.op(reader), f"{edit.op(reader)} `{edit.label(reader)}`"
    if edit.attr(reader, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NoMatch(f"{where} has auto_pad={edit.attr(reader, 'auto_pad')}")
    own = np.zeros_like(widths)
    if edit.attr(reader, "auto_pad", "NOTSET") == "NOTSET" and edit.attr(reader, "pads"):
        own = np.asarray(edit.attr(reader, "pads"), dtype=np.int64).reshape(2, -1)
    if own.shape != widths.shape:
        raise NoMatch(f"{where} has another number of spatial axes")
    total = own + widths
    attributes: dict[str, object] = {"pads": total.reshape(-1).tolist()}
    if kind == "Conv":
        return attributes
    if edit.attr(reader, "ceil_mode", 0):
        raise NoMatch(f"{where} rounds its size up")
    if any(step != 1 for step in edit.attr(reader, "dilations", [])):
        raise NoMatch(f"{where} has dilations")
    if np.any(total >= np.asarray(edit.attr(reader, "kernel_shape"))):
        raise NoMatch(f"the padding would be as wide as the window of {where}")
    if kind == "MaxPool":
        if edit.out(reader, 1) is not None:
            raise NoMatch(f"{where} gives indices")
        if not _is_not_negative(e, node.inputs[0]):
            raise NoMatch(f"{where} pads with -inf, and its input may be negative")
        return attributes
    if opset < 7 or (np.any(own) and not edit.attr(reader, "count_include_pad", 0)):
        raise NoMatch(f"{where} does not count its own padding")
    return attributes | {"count_include_pad": 1}


def _is_not_negative(e: edit.Edit, tensor: gs.Tensor) -> bool:
    """Whether the node that makes a tensor never gives negative numbers."""
    node = maker(e, tensor)
    while node is not None and edit.op(node) in ("MaxPool", "AveragePool"):
        node = maker(e, node.inputs[0])
    return node is not None and is_never_negative(node)
