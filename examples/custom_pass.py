"""A pass of one's own, without a plugin: written here, named in a pipeline, checked like the built-in ones.

    python examples/custom_pass.py

Its golden cases are in examples/golden/split-max-pool/, its test in tests/examples/test_custom_pass.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import onnx.parser
import onnx_graphsurgeon as gs

import lpcc
from lpcc import edit
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass, Pipeline, Range


@dataclass(frozen=True)
class SplitMaxPool(LocalPass):
    """Split a large max pool into one along the height and one along the width.

    The maximum over a rectangle is the maximum over its rows' maxima:

        max_{i < k, j < l} x[i, j]  =  max_{j < l} max_{i < k} x[i, j]

    so that k + l comparisons per pixel do what k l did (J. Gil and M. Werman, "Computing 2-D min, median, and max
    filters", IEEE PAMI 15(5), 1993). It pays in detectors that pool over 5, 9 and 13 pixels at stride 1,
    unless the runtime does the same itself, as onnxruntime does on Arm: there the guard takes it back.

    Left alone: windows smaller than `least` pixels on a side, where a second pass over memory costs more than it
    saves; pools that return indices, are not two-dimensional, or state their padding by `auto_pad`.
    """

    name: ClassVar[str] = "split-max-pool"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    least: Annotated[int, Range(min=2)] = 5

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:  # noqa: ARG002
        """Split the pools of one graph."""
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) != "MaxPool":
                    continue
                reason = self._obstacle(node)
                if reason is not None:
                    changes.refuse(node, reason)
                    continue
                changes.done(node, "MaxPool split into height and width")
                _split(e, node)

    def _obstacle(self, node: gs.Node) -> str | None:
        """Why a pool stays as it is; None if nothing speaks against it."""
        window = edit.attr(node, "kernel_shape")
        if len(window) != 2:
            return f"it pools over {len(window)} dimensions"
        if min(window) < self.least:
            return f"its window is smaller than {self.least} on a side"
        if edit.out(node, 1) is not None:
            return "it returns indices"
        if edit.attr(node, "auto_pad", "NOTSET") != "NOTSET":
            return "it states its padding by auto_pad"
        return None


def _split(e: edit.Edit, node: gs.Node) -> None:
    """Put two pools in the place of one."""
    height, width = (dict(node.attrs) for _ in range(2))
    for key, neutral in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
        values = edit.attr(node, key, [1, 1])
        height[key], width[key] = [values[0], neutral], [neutral, values[1]]
    top, left, bottom, right = edit.attr(node, "pads", [0, 0, 0, 0])
    height["pads"], width["pads"] = [top, 0, bottom, 0], [0, left, 0, right]
    x, y = node.inputs[0], node.outputs[0]
    shape = None if x.shape is None or y.shape is None else [*y.shape[:3], x.shape[3]]
    rows = e.fresh(f"{y.name}_rows", y.dtype, shape)
    e.remove(node)
    e.add("MaxPool", [x], [rows], height)
    e.add("MaxPool", [rows], [y], width, name=node.name)


PYRAMID = """
<ir_version: 10, opset_import: ["": 17]>
pyramid (float[1,64,40,40] x) => (float[1,256,40,40] y)
{
    a = MaxPool <kernel_shape = [5,5], pads = [2,2,2,2]> (x)
    b = MaxPool <kernel_shape = [9,9], pads = [4,4,4,4]> (x)
    c = MaxPool <kernel_shape = [13,13], pads = [6,6,6,6]> (x)
    y = Concat <axis = 1> (x, a, b, c)
}
"""


def main() -> None:
    """Run the pass on the pyramid pooling of a detector; lpcc compares the outputs and takes back what does not pay."""
    pipeline = Pipeline.parse("exact,split-max-pool{least=4}", passes=[SplitMaxPool])
    result = lpcc.optimize(onnx.parser.parse_model(PYRAMID), target="arm-cortex-m7", pipeline=pipeline)
    report = result.report
    print(f"{pipeline}: {report.before.latency_ms:.2f} -> {report.after.latency_ms:.2f} ms (predicted)")
    print(report.passes[-1].counts)


if __name__ == "__main__":
    main()
