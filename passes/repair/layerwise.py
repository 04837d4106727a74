"""Repairing the layers of a quantised network one by one, and keeping what brings it closer to the float one.

Layers come in order. The quantised network, as repaired so far, says what the next one really reads, the float network
what it should write; a `Solver` finds other integers. Several layers at once, each with what it read before the others
were repaired, would make good the same error several times: 14 dB in place of 35 dB on a network of seven layers with
4-bit weights.

One image in three is kept apart. On these each layer must come closer to its float output, and in the end the whole
network to the float network's outputs (`lpcc.quality.noise`): else only the first half of the repairs stays,
or the first quarter, and so on, as far as that helps.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shapes import bind
from lpcc.calibrate.partial import Walk, part
from lpcc.calibrate.patches import NoPatches
from lpcc.errors import ModelError
from lpcc.graph import to_proto
from lpcc.passes.repair.digests import digests
from lpcc.passes.repair.layers import Rounding, Site, Undo, sites
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range
from lpcc.quality.noise import Noise, noise_parts

if TYPE_CHECKING:
    from lpcc.data import Batch, Dataset

Array = np.ndarray[Any, Any]

_APART = 3
"""One image in so many is kept apart."""
_PER_IMAGE = 128
"""Rows of a layer that each image gives: sums of products take no memory for more of them."""
_BATCH = 8
_AHEAD = 4
"""Layers whose float outputs are found in one run, and held: wide ones take 30 MB each."""
_WALK_BYTES = 1 << 29
"""Memory for what the quantised network is waiting with between two layers, for all images."""
_TAKEN_BACK = "taken back: on images kept apart {} comes no closer to the float one"


class Solver(ABC):
    """Finds the integers of one layer from rows of what it reads and of what it should write."""

    @abstractmethod
    def add(self, read: Array, wanted: Array) -> None:
        """Take in rows (rows, groups, depth) that the layer reads and (rows, groups, outputs) that it should write."""

    @abstractmethod
    def solve(self) -> Iterator[Rounding]:
        """Roundings to choose from, the best of which is taken."""


@dataclass(frozen=True)
class LayerwiseRepair(Pass):
    """A pass that finds other integers for the layers of a quantised network, one by one.

    What a layer came to is kept in the context, for the same pass on a network that is the same up to there: the guard
    takes one layer back and runs it again.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    what: ClassVar[str]
    """What is said of a layer that was changed."""

    images: Annotated[int, Range(min=2)] = 128
    """Calibration images that are used at most, a third of them to judge by."""
    skip: tuple[str, ...] = ()
    """Names of layers to be left alone."""

    @abstractmethod
    def solver(self, site: Site, ctx: Context) -> Solver:
        """Start on a layer. Raises NoPatches with the reason where there is nothing to be done."""

    def per_image(self, site: Site, images: int) -> int:
        """How many rows of a layer are wanted of each of so many images: here the same for all layers."""
        del site, images
        return _PER_IMAGE

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Repair the layers of the main graph towards `ctx.unquantized`; see the class."""
        changes = Changes()
        data, unquantized = ctx.calibration, ctx.unquantized
        whole = graph.name or "graph"
        if unquantized is None:
            changes.refuse(whole, "nothing was quantised before: there is no float network to come closer to")
            return changes
        count = min(self.images, 0 if data is None else len(data), max(2, _WALK_BYTES // _held_bytes(unquantized)))
        if data is None or count < 2:
            changes.refuse(whole, "there are not enough images to keep one apart")
            return changes
        found = list(sites(graph, unquantized, frozenset(self.skip), changes))
        if not found:
            if not changes.refused:
                changes.refuse(whole, "no layer of it has integer weights")
            return changes
        _Run(self, graph, unquantized, data.head(count), changes, ctx).go(found)
        return changes

    def sketch(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Nothing: no cost depends on which integers there are."""
        del graph, ctx
        return Changes()


class _Run:
    """One run over the layers of a graph."""

    def __init__(
        self,
        how: LayerwiseRepair,
        graph: gs.Graph,
        unquantized: gs.Graph,
        data: Dataset,
        changes: Changes,
        ctx: Context,
    ) -> None:
        from lpcc.runtime import Session

        self.how = how
        self.graph = graph
        self.images = len(data)
        self.batches = list(data.batches(_BATCH))
        self.changes = changes
        self.ctx = ctx
        self.float_model = to_proto(unquantized)
        self.feeds = [feeds for batch, _, mask in self._masked() if (feeds := _only(batch, mask, data.fixed_batch))]
        session = Session(self.float_model, threads=os.cpu_count() or 1)
        self.expected = [session.run(feed) for feed in self.feeds]

    def go(self, found: Sequence[Site]) -> None:
        """Repair the layers `found`, which are in order."""
        before = self._noise()
        kept: list[tuple[Site, Undo]] = []
        walk = Walk(to_proto(self.graph), [batch.feeds for batch in self.batches])
        known: dict[bytes, Rounding | str] = self.ctx.keep("repair: layers", dict)
        keys = self._keys(found)
        for start in range(0, len(found), _AHEAD):
            some = found[start : start + _AHEAD]
            fresh = [site for site in some if keys[site.name] not in known]
            limits = [self.how.per_image(site, self.images) for site in fresh]
            work = {s.name: (r, w) for s, r, w in zip(fresh, limits, self._targets(fresh, limits), strict=True)}
            for place, site in enumerate(some, start):
                self.ctx.progress("repair", place, len(found))
                key = keys[site.name]
                if site.name in work:
                    limit, wanted = work.pop(site.name)
                    try:
                        if isinstance(wanted, str):
                            raise NoPatches(wanted)
                        known[key] = self._solve(site, walk, wanted, limit).packed()
                    except (NoPatches, ModelError) as why:
                        known[key] = str(why)
                outcome = known[key]
                if isinstance(outcome, str):
                    self.changes.refuse(site.name, outcome)
                    continue
                with edit.Edit(self.graph) as editing:
                    kept.append((site, site.write(editing, outcome.unpacked())))
        self.ctx.progress("repair", len(found), len(found))
        self._settle(kept, before)

    def _keys(self, found: Sequence[Site]) -> dict[str, bytes]:
        """By name of a layer what its repair depends on: the networks up to there, and which layers are repaired."""
        marks = {site.layer.node.outputs[0].name: f"{site.name} {site.bounds}" for site in found}
        here, wanted = digests(to_proto(self.graph), marks), digests(self.float_model)
        options = str(replace(self.how, skip=()))

        def key(site: Site) -> bytes:
            node = site.layer.node  # what it writes may be called otherwise if the next layer is in float
            said = [options, self.images, marks[node.outputs[0].name], edit.op(node), sorted(node.attrs.items())]
            return b" ".join([repr(said).encode(), *(here[t.name] for t in node.inputs if t.name), wanted[site.target]])

        return {site.name: key(site) for site in found}

    def _settle(self, kept: Sequence[tuple[Site, Undo]], before: Noise) -> None:
        """Keep as many of the first repairs as bring the whole network closer: all, half of them, a quarter ..."""
        count = len(kept)
        while count and not (before.total > 0 and self._noise().relative_to(before) < 1):
            with edit.Edit(self.graph) as editing:
                for site, undo in kept[count // 2 : count]:
                    undo(editing)
                    self.changes.refuse(site.name, _TAKEN_BACK.format("the network"))
            count //= 2
        for site, _ in kept[:count]:
            self.changes.done(site.name, self.how.what)

    def _noise(self) -> Noise:
        """Distance of the quantised network from the float one on the images kept apart."""
        from lpcc.runtime import Session

        session = Session(to_proto(self.graph), threads=os.cpu_count() or 1)
        return noise_parts(zip(self.expected, (session.run(feed) for feed in self.feeds), strict=True))

    def _solve(self, site: Site, walk: Walk, wanted: Sequence[Array], limit: int) -> Rounding:
        """A better rounding of a layer.

        Raises:
            NoPatches: there is none, or nothing to find one by.
            ModelError: onnxruntime cannot run the network up to there.
        """
        solver = self.how.solver(site, self.ctx)
        apart: list[tuple[Array, Array]] = []
        reads = site.reads
        walk.model = to_proto(self.graph)
        for (batch, first, mask), values, target in zip(self._masked(), walk.values(reads.tensor), wanted, strict=True):
            rows = reads.rows(values, batch, first, limit)
            if not (np.isfinite(rows).all() and np.isfinite(target).all()):
                raise NoPatches("it reads or writes numbers that are not finite")
            solver.add(_flat(rows[~mask]), _flat(target[~mask]))
            apart.append((_flat(rows[mask]), _flat(target[mask])))
        best, least = None, error(site, site.current, apart)
        for rounding in solver.solve():
            fits = rounding.bias is None or site.fits(rounding.bias, rounding.scales).all()
            if fits and (found := error(site, rounding, apart)) < least:
                best, least = rounding, found
        if best is None:
            raise NoPatches(_TAKEN_BACK.format("its output"))
        return best

    def _targets(self, some: Sequence[Site], limits: Sequence[int]) -> list[list[Array] | str]:
        """For each layer, rows of what it should write, batch by batch, or why there are none."""
        from lpcc.runtime import Session

        if not some:
            return []
        names = list(dict.fromkeys(site.target for site in some))
        session = Session(part(self.float_model, names))
        found: list[list[Array] | str] = [[] for _ in some]
        for batch, first, _ in self._masked():
            values = session.run({spec.name: batch.feeds[spec.name] for spec in session.inputs}, names)
            for place, (rows, site, limit) in enumerate(zip(found, some, limits, strict=True)):
                if isinstance(rows, str):
                    continue
                try:
                    rows.append(site.wanted.rows(values[site.target], batch, first, limit))
                except NoPatches as why:
                    found[place] = str(why)
        return found

    def _masked(self) -> Iterator[tuple[Batch, int, Array]]:
        """The batches, each with the number of its first image and which of its images are kept apart."""
        every, first = min(_APART, self.images), 0
        for batch in self.batches:
            yield batch, first, np.arange(first, first + batch.count) % every == every - 1
            first += batch.count


def _only(batch: Batch, mask: Array, fixed: int | None) -> dict[str, Array]:
    """What a model is fed for the images of a batch that `mask` names; empty where it names none."""
    if not mask.any():
        return {}
    if batch.rows == 1:
        return batch.feeds
    rows = np.flatnonzero(mask)
    taken = np.resize(rows, fixed or len(rows))  # a fixed batch is filled up with the same images
    return {name: values[taken] for name, values in batch.feeds.items()}


def _held_bytes(graph: gs.Graph) -> int:
    """Memory that a walk keeps for one image, about: twice the largest activation in 8 bits."""
    shapes = bind(graph)
    sizes = [shapes.elements(tensor) for node in graph.nodes for tensor in node.outputs]
    return 2 * max([size for size in sizes if size], default=1)


def _flat(rows: Array) -> Array:
    """Rows of all images, (rows, groups, numbers)."""
    return rows.reshape(-1, *rows.shape[2:])


def error(site: Site, rounding: Rounding, pairs: Sequence[tuple[Array, Array]]) -> float:
    """Mean squared error of a layer's output behind its activation, over rows that it reads and should write."""
    weights = rounding.weights.astype(np.float32)
    total, count = 0.0, 0
    for read, wanted in pairs:  # of a wide layer all rows together take hundreds of megabytes
        outputs = np.matmul(read.transpose(1, 0, 2), weights)  # (groups, rows, outputs)
        if rounding.bias is not None:
            outputs += rounding.bias.astype(np.float32)[:, None, :]
        difference = site.activated(outputs) - site.activated(wanted.transpose(1, 0, 2))
        total += float(np.square(difference).sum(dtype=np.float64))
        count += difference.size
    return total / max(count, 1)
