"""Running a pipeline: pass after pass over one graph, watched by hooks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lpcc.analysis.types import annotate
from lpcc.errors import LpccError, PassError, UsageError
from lpcc.pipeline.base import Changes, Need, Pass
from lpcc.pipeline.context import Context
from lpcc.pipeline.layers import with_names

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Record:
    """What one pass of a run did, and how long it took."""

    item: Pass
    changes: Changes
    seconds: float


class Hook:
    """Watches a run. Subclasses override what they need; a hook raises PassError to stop the run."""

    def before(self, index: int, item: Pass, graph: gs.Graph) -> None:
        """Called before pass `index` runs."""

    def after(self, index: int, record: Record, graph: gs.Graph) -> None:
        """Called after pass `index` ran."""

    def failed(self, index: int, item: Pass, error: Exception) -> None:
        """Called when pass `index`, or the `after` of a hook, raised."""


_WANTED = {
    Need.CALIBRATION: "calibration images: give --calib, or leave it to lpcc to synthesise some",
    Need.LABELS: "labelled images: give --eval",
    Need.TRAINER: "torch, which is not installed: pip install 'lpcc[train]'",
    Need.TARGET: "a target device: give --target",
    Need.TRAINING: "images to train on, with or without labels: give --train",
}


def check_needs(passes: Iterable[Pass], ctx: Context) -> None:
    """Raise UsageError for the first need of any pass that is not met; called before any work is done."""
    for item in passes:
        for need in sorted(item.required, key=lambda need: need.value):
            if not ctx.has(need):
                raise UsageError(f"pass `{item.name}` needs {_WANTED[need]}")


def run_pipeline(
    graph: gs.Graph, passes: Iterable[Pass], ctx: Context, hooks: Sequence[Hook] = (), *, first: int = 0
) -> list[Record]:
    """Run passes in order over `graph`, in place. Hooks count the passes from `first` on.

    Raises:
        UsageError: a pass needs what there is not, or is to skip a layer that there is not.
        PassError: a pass crashed, or a hook found that it broke the model.
    """
    passes = list(passes)
    check_needs(passes, ctx)
    annotate(graph)
    records = []
    for index, item in enumerate(passes, first):
        ctx.progress(item.name, index - first, len(passes))
        try:
            for hook in hooks:
                hook.before(index, item, graph)
            start = time.perf_counter()
            named = with_names(item, graph, ctx)
            changes = named.run(graph, ctx)
            record = Record(named, changes, time.perf_counter() - start)
            if changes:
                ctx.invalidate()
            records.append(record)
            for hook in hooks:
                hook.after(index, record, graph)
        except Exception as error:
            for hook in hooks:
                hook.failed(index, item, error)
            if isinstance(error, LpccError):
                raise
            raise PassError(f"pass `{item.name}` crashed: {type(error).__name__}: {error}") from error
    ctx.progress("", len(passes), len(passes))
    return records
