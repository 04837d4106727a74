"""What the user, the target and its prices leave to integer kernels: from the options of `quantize` to a placement."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.passes.quantize.bits import Formats
from lpcc.passes.quantize.emit import WeightScheme
from lpcc.passes.quantize.operators import rules_of
from lpcc.passes.quantize.placement import KEPT, SKIPPED, Placement, Planner, Unit
from lpcc.passes.quantize.pricing import Prices
from lpcc.pipeline import Changes, Context
from lpcc.pipeline.layers import matching

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_ASKED = "not named in `only`"
_MIN_WORK = 32.0
"""Multiply-accumulates for each value converted, for onnxruntime where there is no target to price kernels on."""


@dataclass(frozen=True)
class Wishes:
    """What the options of `quantize` say about where.

    `skip` are names of nodes, of which those that do not occur are passed over; `keep` and `only` are patterns that
    must occur. `min_work` is that of `lpcc.passes.quantize.regions`; None leaves it to the target.
    """

    skip: frozenset[str]
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    min_work: float | None = None

    def left(self, graph: gs.Graph) -> dict[str, str]:
        """By name of a node that is to stay in float: why.

        Raises:
            UsageError: a name or pattern in `keep` or `only` fits no node.
        """
        names = [edit.label(node) for node in graph.nodes]
        found = {}
        if self.only:
            asked = matching(names, self.only, "quantize: only")
            found = {name: _NOT_ASKED for name in names if name not in asked}
        found |= dict.fromkeys(matching(names, self.keep, "quantize: keep"), KEPT)
        return found | {name: SKIPPED for name in names if name in self.skip}


def place(
    graph: gs.Graph,
    ctx: Context,
    wishes: Wishes,
    scheme: tuple[np.dtype, WeightScheme] | None,
    changes: Changes,
    formats: Formats | None = None,
) -> Placement:
    """The integer kernels of a graph; `formats` are what `lpcc.passes.quantize.sixteen` made of it.

    Where the target's runtime is onnxruntime, whose float kernels are fast, what the target's cost model finds slower
    on integers stays in float; runtimes of microcontrollers run all on integers that can be. `only` and `min_work` are
    taken at their word.

    Raises:
        UsageError: a name in `keep` or `only` fits no node.
    """
    left = wishes.left(graph)
    target = ctx.target
    is_priced = wishes.min_work is None and not wishes.only and scheme is not None
    rules = rules_of("onnxruntime" if target is None else target.runtime)
    if target is None or scheme is None or not is_priced or target.runtime != "onnxruntime":
        least = wishes.min_work
        if least is None:
            least = _MIN_WORK if target is None and not wishes.only else 0.0
        return Planner(graph, left, changes, least, rules, formats).place()

    def plan(other: gs.Graph, without: frozenset[str]) -> Placement:
        return Planner(other, left, Changes(), rules=rules).place(lambda units: _named(units, without))

    prices = Prices(target, scheme, ctx.keep("quantize: sizes of images", lambda: _sizes(ctx)))

    def found() -> frozenset[str]:
        return frozenset(edit.label(unit.node) for unit in prices.slower(graph, plan))

    names = ctx.keep(f"quantize: slower {_digest(graph, left)} {target.name} {scheme}", found)

    return Planner(graph, left, changes, rules=rules).place(lambda units: _named(units, names))


def _named(units: Sequence[Unit], names: frozenset[str]) -> list[Unit]:
    return [unit for unit in units if edit.label(unit.node) in names]


def _digest(graph: gs.Graph, left: Mapping[str, str]) -> int:
    """A checksum of what prices depend on: operators, shapes and what stays in float anyway."""
    parts = [(edit.label(n), edit.op(n), [t.shape for t in [*n.inputs, *n.outputs]]) for n in graph.nodes]
    return zlib.crc32(repr((parts, sorted(left))).encode())


def _sizes(ctx: Context) -> dict[str, int]:
    """Values for dimensions that the model leaves open, as the images have them."""
    if ctx.calibration is None:
        return {}
    batch = next(iter(ctx.calibration.head(1).batches(1)), None)
    feeds = {} if batch is None else batch.feeds
    return {f"{name}[{axis}]": size for name, value in feeds.items() for axis, size in enumerate(value.shape) if axis}
