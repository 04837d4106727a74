"""The exact pipeline on the zoo's real models: same outputs, same interface, never more nodes for onnxruntime.

    python benchmarks/exact_zoo.py

For each model: nodes in the file and nodes that onnxruntime executes, before and after; the largest difference of any
output relative to its magnitude on real images, at batch 1 and 3 and at two image sizes where the model lets them vary.
Exits with 1 if a difference exceeds 1e-4, the interface changed or onnxruntime executes more nodes than before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import zoo
from rich.console import Console
from rich.table import Table

import lpcc
from lpcc import equality
from lpcc.runtime import Session, TensorSpec, count_kernels, optimised

_BATCHES = (1, 3)
_SHRINK = 0.75  # the second size of an image, to a multiple of 32


def inputs(images: np.ndarray, spec: TensorSpec) -> Iterator[np.ndarray]:
    """Real images at the batches and sizes that the model takes."""
    batch, *rest = spec.shape or (None, None, None, None)
    sizes = [images.shape[2:]]
    if not any(isinstance(size, int) for size in rest[1:]):
        sizes.append(tuple(max(32, int(size * _SHRINK) // 32 * 32) for size in images.shape[2:]))
    for count in _BATCHES if not isinstance(batch, int) else (batch,):
        for height, width in sizes:
            yield np.ascontiguousarray(images[:count, :, :height, :width])


def main() -> None:
    """Print the table."""
    module = zoo.load()
    table = Table("model", "nodes", "executed", "largest difference", "runs compared", title="exact pipeline")
    bad = 0
    for name in module.ENTRIES:
        before = onnx.load(zoo.model(name))
        after = lpcc.optimize(zoo.model(name), target="arm-cortex-a", pipeline="exact").model
        reference, candidate = Session(before, optimise=False), Session(after, optimise=False)
        (feed, images), *_ = module.feeds(name, "eval", max(_BATCHES))[0].items()
        worst, runs = 0.0, 0
        for x in inputs(images, reference.inputs[0]):
            worst = max(worst, equality.difference(reference, candidate, {feed: x})[1])
            runs += 1
        executed = [count_kernels(optimised(model)).nodes for model in (before, after)]
        change = equality.interface_change(before, after)
        if worst > equality.TOLERANCE or executed[1] > executed[0] or change is not None:
            bad += 1
        table.add_row(
            name,
            f"{len(before.graph.node)} -> {len(after.graph.node)}",
            f"{executed[0]} -> {executed[1]}",
            f"{worst:.1e}",
            str(runs) if change is None else f"interface: {change}",
        )
    Console(width=120).print(table)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
