"""Hooks that watch a run: verify, compare, dump, reproduce. Each does one thing and can be combined with the others."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from lpcc import equality
from lpcc.door import files
from lpcc.errors import LpccError, ModelError, PassError, UsageError
from lpcc.graph import clone, to_proto
from lpcc.pipeline.base import Fidelity, Pass
from lpcc.pipeline.context import Context
from lpcc.pipeline.runner import Hook, Record, run_pipeline
from lpcc.text import print_graph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class Verify(Hook):
    """After each pass that changed the graph: ONNX's checker and shape inference accept it, the interface is kept."""

    def __init__(self, original: onnx.ModelProto) -> None:
        self.original = original

    def after(self, index: int, record: Record, graph: gs.Graph) -> None:
        """Raise PassError if the pass made an invalid model or changed the interface."""
        if not record.changes:
            return
        model = to_proto(graph)
        try:
            files.check(model, f"after pass `{record.item.name}` ({index})")
        except ModelError as error:
            raise PassError(str(error)) from error
        change = equality.interface_change(self.original, model)
        if change is not None:
            raise PassError(f"pass `{record.item.name}` ({index}) changed the interface: {change}")


class Compare(Hook):
    """After each exact pass that changed the graph: its outputs in onnxruntime equal those of the original model.

    It stops comparing after the first pass that is not exact.
    """

    def __init__(
        self, original: onnx.ModelProto, feeds: Mapping[str, np.ndarray], tolerance: float = equality.TOLERANCE
    ) -> None:
        from lpcc.runtime import Session

        self.reference = Session(original, optimise=False)
        self.feeds = feeds
        self.tolerance = tolerance
        self.exact = True

    def after(self, index: int, record: Record, graph: gs.Graph) -> None:
        """Raise PassError if an output differs."""
        from lpcc.runtime import Session

        self.exact = self.exact and record.item.fidelity is Fidelity.EXACT
        if not record.changes or not self.exact:
            return
        name, distance = equality.difference(self.reference, Session(to_proto(graph), optimise=False), self.feeds)
        if distance > self.tolerance:
            raise PassError(
                f"pass `{record.item.name}` ({index}) is not exact here: output `{name}` differs by {distance:.3g} "
                "of its magnitude"
            )


class Dump(Hook):
    """The graph's text after each pass, as ``<folder>/000_fold-bn.txt``; ``<folder>/start.txt`` is the graph before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def before(self, index: int, item: Pass, graph: gs.Graph) -> None:  # noqa: ARG002
        """Write the graph as it came."""
        if index == 0:
            self._write("start", graph)

    def after(self, index: int, record: Record, graph: gs.Graph) -> None:
        """Write the graph as the pass left it."""
        self._write(f"{index:03}_{record.item.name}", graph)

    def _write(self, name: str, graph: gs.Graph) -> None:
        path = self.folder / f"{name}.txt"
        try:
            path.write_text(print_graph(graph), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error


class Reproduce(Hook):
    """When a pass fails: the model as that pass found it, the pipeline from there on and the error, in a new folder.

    The model is made anew from the original by the passes as they ran before, the layers that the guard makes them skip
    included, which costs nothing while all is well. Errors in what the user gave are no failures of a pass.
    """

    def __init__(self, graph: gs.Graph, passes: Sequence[Pass], ctx: Context, folder: Path) -> None:
        self.start = clone(graph)
        self.passes = list(passes)
        self.ctx = ctx
        self.folder = folder
        self.written: Path | None = None
        self._ran: dict[int, Pass] = {}

    def after(self, index: int, record: Record, graph: gs.Graph) -> None:  # noqa: ARG002
        """Note the pass with the options that it had."""
        self._ran[index] = record.item

    def failed(self, index: int, item: Pass, error: Exception) -> None:
        """Write the reproducer and add its place to the error."""
        if isinstance(error, LpccError) and error.exit_code != PassError.exit_code:
            return
        folder = self.folder / f"lpcc-reproducer-{item.name}"
        folder.mkdir(parents=True, exist_ok=True)
        graph = clone(self.start)
        self.ctx.invalidate()
        run_pipeline(graph, [self._ran[earlier] for earlier in range(index)], self.ctx)
        files.write(to_proto(graph), folder / "model.onnx")
        rest = ",".join(str(later) for later in [item, *self.passes[index + 1 :]])
        (folder / "pipeline.txt").write_text(rest + "\n", encoding="utf-8")
        (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        self.written = folder
        error.add_note(f"reproducer saved in {folder}")
