"""A model in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lpcc.report.model import Figures

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.cost import Cost
    from lpcc.target import Target


def figures(graph: gs.Graph, target: Target, file_bytes: int) -> Figures:
    """The figures of an annotated graph on a target, latency and energy predicted by its cost model."""
    from lpcc.cost import CostModel

    return figures_of(graph, CostModel(target).estimate(graph), file_bytes)


def figures_of(graph: gs.Graph, cost: Cost, file_bytes: int) -> Figures:
    """The figures of a graph whose `cost` is known already."""
    from lpcc import edit

    return Figures(
        nodes=sum(1 for _ in edit.nodes(graph)),
        parameters=cost.parameters,
        macs=cost.macs,
        weight_bytes=cost.weight_bytes,
        file_bytes=file_bytes,
        latency_ms=cost.latency_ms,
        energy_mj=cost.energy_mj,
        peak_activation_bytes=cost.peak_activation_bytes,
    )
