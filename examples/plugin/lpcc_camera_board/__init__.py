"""What this package adds to lpcc: a pass and a target, each named by an entry point in pyproject.toml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass

BOARD = Path(__file__).with_name("camera-board.toml")


@dataclass(frozen=True)
class OpenRelu6(LocalPass):
    """Replace ReLU6 by ReLU: min(max(x, 0), 6) becomes max(x, 0).

    What ReLU6 cuts off is rare in trained networks, and ReLU commutes with positive scales, as cross-layer equalisation
    needs it (M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019). The
    pass is approximate: lpcc judges the result, and takes it back where it breaks the budget.

    Left alone: layers named in `skip`; Clip with other limits, or with limits that are computed.
    """

    name: ClassVar[str] = "open-relu6"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    skip: tuple[str, ...] = ()

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:  # noqa: ARG002
        """Replace the activations of one graph."""
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) != "Clip" or edit.label(node) in self.skip:
                    continue
                if [edit.scalar(edit.inp(node, index)) for index in (1, 2)] != [0, 6]:
                    changes.refuse(node, "its limits are not 0 and 6")
                    continue
                changes.done(node, "ReLU6 replaced by ReLU")
                x, y = node.inputs[0], node.outputs[0]
                e.remove(node)
                e.add("Relu", [x], [y], name=node.name)
