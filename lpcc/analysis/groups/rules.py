"""Which rule an operator follows, and the way through a graph node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import elementwise, layers, layout
from lpcc.analysis.groups.labels import Trace
from lpcc.match import NoMatch

Rule = Callable[[Trace, gs.Node], None]

_ALONE: Final = """Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid
    Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu com.microsoft::Gelu com.microsoft::FastGelu
    com.microsoft::QuickGelu"""

_TOGETHER: Final = """Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub
    Sum Where Xor"""

_REDUCES: Final = """ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare"""

_POOLS: Final = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"

_NORMALISES: Final = """CumSum GroupNormalization Hardmax LRN LayerNormalization LogSoftmax LpNormalization
    MeanVarianceNormalization RMSNormalization Softmax"""


def _shape(trace: Trace, node: gs.Node) -> None:
    """What Shape says stays as it was: removal adds what it takes away."""
    trace.note(node.outputs[0], [None])


def _constant(trace: Trace, node: gs.Node) -> None:
    if not isinstance(node.attrs.get("value"), gs.Constant):
        raise NoMatch("it holds no plain tensor")
    trace.constants.add(node.outputs[0].name)
    trace.of(node.outputs[0])


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_ALONE.split(), elementwise.same),
    **dict.fromkeys(_TOGETHER.split(), elementwise.broadcast),
    **dict.fromkeys(_REDUCES.split(), elementwise.reduce),
    **dict.fromkeys(_POOLS.split(), elementwise.pool),
    **dict.fromkeys(_NORMALISES.split(), elementwise.normalised),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), elementwise.batch_norm),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), elementwise.quantize),
    **dict.fromkeys(("Resize", "Upsample"), elementwise.resize),
    **dict.fromkeys(("Conv", "ConvTranspose"), layers.convolution),
    "Gemm": layers.gemm,
    "MatMul": layers.matmul,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), layout.reshape),
    **dict.fromkeys(("ConstantOfShape", "Expand"), layout.expand),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), layout.blocks_of_space),
    "Concat": layout.concat,
    "Constant": _constant,
    "Gather": layout.gather,
    "Pad": layout.pad,
    "Shape": _shape,
    "Slice": layout.slice_,
    "Split": layout.split,
    "Tile": layout.tile,
    "Transpose": layout.transpose,
}
"""How operators hand labels on; what is not here pins all that it reads and makes."""


def follow(trace: Trace, graph: gs.Graph) -> None:
    """Go through a graph, whose nodes are in topological order."""
    for tensor in graph.inputs:
        trace.fixed(tensor, f"`{tensor.name}` is an input of the model")
    for node in graph.nodes:
        op = edit.op(node)
        rule = RULES.get(op)
        try:
            if rule is None or edit.subgraphs(node):
                raise NoMatch("it is not followed")
            rule(trace, node)
        except NoMatch as why:
            _opaque(trace, node, f"{op} `{edit.label(node)}`: {why}")
    for tensor in graph.outputs:
        trace.fixed(tensor, f"`{tensor.name}` is an output of the model")


def _opaque(trace: Trace, node: gs.Node, reason: str) -> None:
    for tensor in (*node.inputs, *edit.captured(node), *node.outputs):
        trace.fixed(tensor, reason)
