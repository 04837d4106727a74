"""A model in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lpcc.report.model import Figures

if TYPE_CHECKING:
    from pathlib import Path

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
    from lpcc.analysis.storage import storage

    stored = storage(graph)
    return Figures(
        nodes=sum(1 for _ in edit.nodes(graph)),
        parameters=cost.parameters,
        macs=cost.macs,
        weight_bytes=cost.weight_bytes,
        file_bytes=file_bytes,
        latency_ms=cost.latency_ms,
        energy_mj=cost.energy_mj,
        peak_activation_bytes=cost.peak_activation_bytes,
        bytes_by_type=stored.by_type,
        bits_per_weight=stored.effective_bits if stored.weights else None,
    )


def stored_bytes(path: Path, weight_bytes: int) -> int:
    """Size of a model's file and of the files with its external data, given that its weights take `weight_bytes`."""
    size = path.stat().st_size
    if size > weight_bytes:  # all weights are inside
        return size
    import onnx

    from lpcc.door import files

    outside: set[Path] = set()
    for tensor in files.tensors(onnx.load(path, load_external_data=False)):
        outside |= {path.parent / entry.value for entry in tensor.external_data if entry.key == "location"}
    return sum((file.stat().st_size for file in outside), start=size)
