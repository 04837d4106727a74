"""The pass `quantize-weights`: weights in a number format of few bits, activations as they are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.runtimes.onnxruntime import activation_after
from lpcc.analysis.shapes import bind
from lpcc.errors import UsageError
from lpcc.formats.fixed import Fixed
from lpcc.formats.format import TENSOR, Array, Format, Layout
from lpcc.formats.integer import DorefaWeights, Integer
from lpcc.formats.powers import FLightNN, PowerOfTwo
from lpcc.formats.signs import Binary, Ternary, TwoScaleTernary
from lpcc.graph import clone
from lpcc.passes.low_bit.binary_input import binarise, obstacle
from lpcc.passes.low_bit.decoders import OPSETS, Decoders, stored_in
from lpcc.passes.low_bit.layers import Layer, layers
from lpcc.passes.normalize import RaiseOpset
from lpcc.pipeline import Changes, Context, Fidelity, Pass, Range

_OPSET = 13
_LARGE = 2**16
"""Weights from which on a matrix product waits for them rather than computes."""
_FEW_ROWS = 8
"""Rows up to which the kernel for 2-bit integers beats the one for floats."""

_OPTIONS: Final = {
    "int8": ("symmetric", "block"),
    "int4": ("symmetric", "block"),
    "int2": ("symmetric", "block"),
    "fixed": ("bits", "fraction", "overflow"),
    "pow2": ("k", "bits", "scale"),
    "flightnn": ("k", "mean_k", "threshold", "bits", "scale"),
    "ternary": ("threshold",),
    "ttq": ("threshold",),
    "binary": (),
    "xnor": (),
    "dorefa": ("bits",),
}
"""The options that each format has, besides those of all."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Weights of Conv, ConvTranspose, Gemm and MatMul in a number format of few bits; activations stay what they are.

    Written are small integer constants and standard operators that decode them, whose result is exactly what the format
    says (`lpcc.passes.low_bit.decoders` lists them). onnxruntime decodes once, when it loads the model: the file is
    small, time and memory are those of floats. Large matrix products with weights in integers (int8, int4, int2) go
    through a DequantizeLinear instead, which onnxruntime makes one kernel with the product: it reads the integers as
    they are, and is several times faster where the weights' way from memory is what takes the time. That kernel
    rounds its input to 8 bits in blocks. It is only made where no Relu and no Clip follows; a Relu is written as
    LeakyRelu of slope 0 there.

    Formats (`lpcc.formats`): integers ``w = s (q - z)``; ``fixed`` and dynamic fixed point, ``w = q 2^-f`` (Courbariaux
    et al. 2014); ``pow2``, sums of k powers of two (LightNN, Ding et al. 2017), and ``flightnn``, as many as a filter
    needs (Ding et al. 2019); ``ternary`` (Li et al. 2016) and ``ttq``, two scales (Zhu et al. 2017); ``binary``,
    ``w = E|w| sign(w)``, and ``xnor``, whose inputs are signs too (Rastegari et al. 2016); ``dorefa`` (Zhou et al.
    2016). Scales of the first four make the errors of the layer's sums least, for inputs as they are behind a Relu
    (`lpcc.formats.search`). What was rounded is not trained again here: few networks bear fewer than 4 bits without.

    The opset is raised to 21 where 4-bit integers are written, to 25 for 2-bit ones, to 13 for others.

    Left alone, each with its reason: layers named in `skip`; the first and the last layer where `ends` says so; layers
    whose weights are not constant, not float32, not finite or quantised already, or whose input is; for ``xnor`` also
    transposed and grouped convolutions. The whole model where its opset cannot be raised.
    """

    name: ClassVar[str] = "quantize-weights"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    for_size: ClassVar[bool] = True

    format: Literal[
        "int8", "int4", "int2", "fixed", "pow2", "flightnn", "ternary", "ttq", "binary", "xnor", "dorefa"
    ] = "int8"
    """Number format of the weights."""
    bits: Annotated[int, Range(1, 16)] | None = None
    """Bits of a number: 8 by default for ``fixed``, 2 for ``dorefa``, 4 for each power of two."""
    fraction: Annotated[int, Range(-100, 100)] | None = None
    """Bits behind the point of ``fixed``; by default those that fit each layer (dynamic fixed point)."""
    overflow: Annotated[float, Range(0, 0.99)] | None = None
    """Share of a layer's weights that may overflow where ``fixed`` finds its point, 1e-4 in the paper; by default the
    point is that of least error."""
    k: Annotated[int, Range(1, 4)] | None = None
    """Powers of two in a weight: 1 by default for ``pow2``; the most, 2 by default, for ``flightnn``."""
    mean_k: Annotated[float, Range(0, 4)] | None = None
    """Powers of two on average over the filters of a layer, for ``flightnn``; 1.5 by default."""
    threshold: Annotated[float, Range(0, 10)] | None = None
    """For ``ternary`` and ``ttq``, weights below it times the mean magnitude are zero, 0.7 by default; for ``flightnn``
    the relative error that a filter may have, in the place of `mean_k`."""
    scale: Literal["free", "power"] | None = None
    """Whether the scale of powers of two is any number, by default, or a power of two itself."""
    symmetric: bool | None = None
    """Whether integers have no zero point; by default they have none."""
    block: Annotated[int, Range(min=16)] | None = None
    """Inputs of a matrix product that share a scale, a power of two; by default all inputs of an output do."""
    per_channel: bool | None = None
    """Whether each output channel has its scale; by default in all formats but ``fixed``."""
    ends: bool | None = None
    """Whether the first and the last layer are quantised too; by default not in 1 and 2 bits, as in the papers."""
    skip: tuple[str, ...] = ()
    """Names of layers to be kept in float."""

    def __post_init__(self) -> None:
        own = {option for options in _OPTIONS.values() for option in options}
        for option in fields(self):
            given = option.name in own and getattr(self, option.name) is not None
            if given and option.name not in _OPTIONS[self.format]:
                known = [name for name, options in _OPTIONS.items() if option.name in options]
                written = option.name.replace("_", "-")
                raise UsageError(f"`{written}` means nothing to {self.format}: it is for {', '.join(known)}")
        if self.block is not None and self.block & (self.block - 1):
            raise UsageError(f"`block` is a power of two, not {self.block}")
        self.kind()  # refuses numbers that the format does not have

    def kind(self) -> Format[Any]:
        """The number format with its options, the object that retraining rounds with, too.

        Raises:
            UsageError: the format has no such numbers.
        """
        if self.format in ("int8", "int4", "int2"):
            return Integer(int(self.format[3:]), self.symmetric is not False)
        if self.format == "fixed":
            return Fixed(self.bits or 8, self.fraction, self.overflow)
        if self.format == "pow2":
            return PowerOfTwo(self.k or 1, self.bits or 4, self.scale or "free")
        if self.format == "flightnn":
            most = self.k or 2
            mean = min(1.5, most) if self.mean_k is None else self.mean_k
            return FLightNN(most, self.bits or 4, self.scale or "free", mean, self.threshold)
        if self.format == "dorefa":
            return DorefaWeights(self.bits or 2, rescaled=True)
        if self.format in ("ternary", "ttq"):
            threshold = 0.7 if self.threshold is None else self.threshold
            return Ternary(threshold) if self.format == "ternary" else TwoScaleTernary(threshold)
        return Binary()

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Rewrite the graph and those nested in it; see the class."""
        changes = Changes()
        scopes = [(scope, list(layers(scope, frozenset(self.skip), changes))) for scope in edit.graphs(graph)]
        if not self._quantises_ends and scopes[0][1]:
            chosen = scopes[0][1]
            for layer in {id(end): end for end in (chosen[0], chosen[-1])}.values():
                changes.refuse(layer.node, "first and last layers stay in float: see `ends`")
            scopes[0] = (graph, chosen[1:-1])
        if self.format == "xnor":
            scopes = [(scope, self._with_binary_inputs(found, changes)) for scope, found in scopes]
        found = [layer for _, chosen in scopes for layer in chosen]
        if not found:
            changes.refuse(graph.name or "graph", "no layer in it can be quantised")
            return changes
        before = clone(graph)
        refused = self._raise_opset(graph, ctx)
        if refused is not None:
            changes.refuse(graph.name or "graph", refused)
            return changes
        for layer in found:  # before any output changes, after which unnamed nodes are called
            changes.done(layer.node, f"weights of {edit.op(layer.node)} in {self.format}")
        ctx.unquantized = before
        shapes = bind(graph)
        for scope, chosen in scopes:
            with edit.Edit(scope) as editing:
                writer = _Writer(self, editing)
                for layer in chosen:
                    writer.write(layer, (shapes.of(layer.node.inputs[0]) or (0,))[:-1])
                    if self.format == "xnor":
                        binarise(editing, layer, int(graph.opset))
        return changes

    @property
    def _quantises_ends(self) -> bool:
        few = self.format in ("int2", "ternary", "ttq", "binary", "xnor") or (
            self.format == "dorefa" and (self.bits or 2) < 3
        )
        return self.ends if self.ends is not None else not few

    def _with_binary_inputs(self, found: list[Layer], changes: Changes) -> list[Layer]:
        kept = []
        for layer in found:
            reason = obstacle(layer)
            if reason is None:
                kept.append(layer)
            else:
                changes.refuse(layer.node, reason)
        return kept

    def _raise_opset(self, graph: gs.Graph, ctx: Context) -> str | None:
        """Raise the opset to the first one that has all that is written; the reason where that cannot be."""
        wanted = max(_OPSET, OPSETS.get(stored_in(self.kind()).name, 0), 21 if self.block else 0)
        refused = RaiseOpset(to=wanted).run(graph, ctx).refused if graph.opset < wanted else []
        if not refused:
            return None
        return f"{self.format} needs opset {wanted}, and `{refused[0].node}` is in the way: {refused[0].reason}"


class _Writer:
    """Writes the layers of one graph; weights that several layers share are written once."""

    def __init__(self, options: QuantizeWeights, editing: edit.Edit) -> None:
        self._options = options
        self._edit = editing
        self._kind = options.kind()
        self._decoders = Decoders(editing, self._kind)
        self._written: dict[tuple[int, Layout, bool], tuple[gs.Constant, gs.Tensor]] = {}

    def write(self, layer: Layer, rows: tuple[int, ...]) -> None:
        """Let a layer, which is to multiply so many rows, read quantised weights."""
        fused = layer.is_product and isinstance(self._kind, Integer) and self._pays(layer, rows)
        node, axis = layer.node, layer.axis
        values = layer.values
        if fused and axis == 0:  # the one kernel of both wants (inputs, outputs)
            values, axis = np.ascontiguousarray(values.T), 1
        per_channel = self._options.per_channel
        if per_channel is None:
            per_channel = self._options.format != "fixed"
        layout = Layout(axis) if per_channel else TENSOR
        if fused and self._options.block:
            layout = Layout(0, self._options.block)
        key = (id(layer.weight), layout, fused)
        if key not in self._written:
            self._written[key] = (layer.weight, self._decoder(layer.weight.name, values, layout, fused))
        self._edit.replace_input(node, 1, self._written[key][1])
        if fused:
            self._keep_activation_apart(node)
        if fused and layer.axis == 0:
            node.attrs["transB"] = 0

    def _keep_activation_apart(self, node: gs.Node) -> None:
        """Write a Relu behind a product as LeakyRelu of slope 0: onnxruntime would not fuse the product otherwise."""
        after = activation_after(node)
        if after is not None and edit.op(after) == "Relu":
            after.op = "LeakyRelu"
            after.attrs["alpha"] = 0.0

    def _decoder(self, name: str, values: Array, layout: Layout, fused: bool) -> gs.Tensor:
        scales = self._kind.fit(values, layout)
        codes = self._kind.encode(values, scales)
        if fused:
            return self._decoders.dequantize(name, codes[0], scales)
        return self._decoders.write(name, codes, scales)

    def _pays(self, layer: Layer, rows: tuple[int, ...]) -> bool:
        """Whether a matrix product is to read the integers themselves; behind it onnxruntime bears no Clip."""
        after = activation_after(layer.node)
        if after is not None and edit.op(after) == "Clip":
            return False
        if self._options.block:
            return True
        few = int(np.prod(rows)) <= _FEW_ROWS
        return layer.values.size >= _LARGE and (few or self._options.format != "int2")
