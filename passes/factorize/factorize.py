"""The pass `factorize`: layers become several smaller ones, at ranks that pay on the target for what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.calibrate.patches import NoPatches
from lpcc.data import Batch
from lpcc.errors import UsageError
from lpcc.graph import clone, to_proto
from lpcc.passes.factorize.allotment import Allotment, Layers
from lpcc.passes.factorize.emit import Norm
from lpcc.passes.factorize.fitting import STOPPED, Cut, Fits, in_order, one_by_one
from lpcc.passes.factorize.form import OPERATORS, Declined, Form
from lpcc.passes.factorize.methods import METHODS
from lpcc.passes.factorize.norms import norms
from lpcc.passes.reconstruct import Reading, Sums, by_result, fingerprint, sums_of
from lpcc.passes.reconstruct.apart import BATCH, batches_apart, closest, images_apart, images_used
from lpcc.passes.repair.memory import images_held
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range
from lpcc.pipeline.proposals import Proposals
from lpcc.quality import class_outputs, compare_runs

_NORMED = 200
"""Images that tell the statistics of batch norms."""
_WALK_BYTES = 1 << 29
"""Memory for what two networks are waiting with between two layers, for all images."""


@dataclass(frozen=True)
class Factorize(Pass):
    """Replace a layer with a large kernel by a few with small ones, whose product is its weights or close to them.

    Of the methods in `method` each layer gets the one that suits it (`lpcc.passes.factorize.methods`):

    * ``bmd``: h x 1, batch norm, 1 x w (Tai et al. 2015, arXiv 1511.06067), the best separable approximation;
    * ``svd``: two layers, the second of one pixel (Denton et al. 2014, arXiv 1404.0736; Zhang et al. 2015, arXiv
      1505.06798);
    * ``tucker2``: one pixel, h x w, one pixel (Kim et al. 2015, arXiv 1511.06530);
    * ``cpd``: one pixel, depthwise along each axis, one pixel (Lebedev et al. 2014, arXiv 1412.6553): minutes of
      alternating least squares, and not for every layer; ``cpd-separable`` has a depthwise layer for each axis instead
      of one with the whole kernel.

    How narrow they get, one option says. `speedup`, `macs`, `size` and `error`, also together: each layer is offered
    ranks in numbers that the target's kernels like, each with its error and its predicted price, and one knapsack over
    all layers chooses (`lpcc.passes.factorize.ranks.planning`). `max_drop` looks for the largest `error` at which the
    network keeps its answers. `energy`, `ratio`, `evbmf` (Nakajima et al. 2013, JMLR 14) and `ranks` treat every layer
    by itself.

    With images (``fit=outputs``) factors are those that change what the layer makes least, not its weights; then all
    layers are fitted in order, each to what it made before, from what the layers before it make now (Zhang et al.,
    section 3.3). A fifth of the images is kept apart; on these the outputs must come closer to the original's than
    without that.

    Left alone, each with its reason: layers in `skip`; those that are faster as they are on the target, by prediction;
    those whose weights are computed, shared, not finite or no one matrix or kernel; those for which every method fails.
    A goal that cannot be met raises `lpcc.search.Infeasible` with the best that can.
    """

    name: ClassVar[str] = "factorize"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION, Need.TARGET})

    method: tuple[str, ...] = ("bmd", "svd")
    """``bmd``, ``cpd``, ``cpd-separable``, ``svd``, ``tucker2``: which may be used. ``bmd`` and ``svd`` are
    quick."""
    speedup: Annotated[float, Range(min=1)] | None = None
    """How many times as fast as now the network must be on the target."""
    macs: Annotated[float, Range(0, 1)] | None = None
    """Share of the network's multiply-accumulates that may be left."""
    size: Annotated[float, Range(0, 1)] | None = None
    """Share of the bytes of the weights that may be left."""
    error: Annotated[float, Range(0, 1)] | None = None
    """Share of the energy that all layers together may lose; within that the network is made as fast as it gets."""
    max_drop: Annotated[float, Range(0, 100)] | None = None
    """Percent of the images kept apart that may change their class; within that it is made as fast as it gets."""
    energy: Annotated[float, Range(0, 1)] | None = None
    """Share of the energy of its output that each layer keeps."""
    ratio: Annotated[float, Range(0, 1)] | None = None
    """Share of its multiply-accumulates that each layer loses."""
    evbmf: bool = False
    """Ranks by variational Bayesian matrix factorisation: what stands out of the noise stays."""
    ranks: tuple[str, ...] = ()
    """Ranks by layer: ``"conv1=16"``, of Tucker-2 ``"conv1=16x24"``; ``*`` and ``?`` stand for anything."""
    fit: Literal["outputs", "weights"] = "outputs"
    """What factors keep: what the layer makes of images, or its weights."""
    repair: Literal["layerwise", "none"] = "layerwise"
    """With images: all layers fitted in order, or each by itself."""
    bn: bool = True
    """Whether two layers for one have a batch norm between them, which helps training and changes nothing; `fold-bn`
    takes it away."""
    multiple: Annotated[int, Range(0, 1024)] = 0
    """Channels between two layers are a multiple of this; 0: what the target's kernels like."""
    images: Annotated[int, Range(min=2)] = 1000
    """Calibration images that are used at most."""
    cache: str = ""
    """Folder in which what takes long is kept: a run that was stopped goes on."""
    skip: tuple[str, ...] = ()
    """Names of layers that stay as they are; ``*`` and ``?`` stand for anything. The guard adds those that it takes
    back."""

    def __post_init__(self) -> None:
        wrong = [name for name in self.method if name not in METHODS]
        if wrong or not self.method:
            raise ValueError(f"`method` takes {', '.join(METHODS)}, not `{','.join(wrong)}`")
        whole = any(value is not None for value in (self.speedup, self.macs, self.size, self.error))
        alone = [value is not None for value in (self.max_drop, self.energy, self.ratio)]
        if whole + sum(alone) + self.evbmf + bool(self.ranks) != 1:
            others = "`max-drop`, `energy`, `ratio`, `evbmf` and `ranks`"
            raise ValueError(f"give `speedup`, `macs`, `size` or `error`, or one of {others}")

    @property
    def required(self) -> frozenset[Need]:
        """Images where they say what to keep, a target where something is priced."""
        looks = self.fit == "outputs" or self.max_drop is not None
        return self.needs - (set() if looks else {Need.CALIBRATION}) - (set() if self._plans else {Need.TARGET})

    @property
    def _plans(self) -> bool:
        """Whether one choice is made for the whole network."""
        return any(goal is not None for goal in (self.speedup, self.macs, self.size, self.error, self.max_drop))

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Choose ranks, factorise and fit; see the class."""
        changes = Changes()
        forms = dict(self._forms(graph, ctx, changes))
        found = self._allotted(graph, forms, ctx)
        nodes = by_result(graph)
        for result, reason in found.left.items():
            changes.refuse(nodes[result], reason)
        cuts = {result: cut for result, cut in found.cuts.items() if edit.label(nodes[result]) not in ctx.returned}
        if not cuts:
            return changes
        read = found.cuts if self.ranks else forms  # the same as for choosing, if there was something to choose
        fits = self._fits(graph, cuts, self._sums(graph, read, ctx), ctx)
        for node in fits.write(graph, self._norms(graph, fits, ctx)):
            changes.done(node, f"factorised by {cuts[node.outputs[0].name].method}")
        for result in fits.refitted:
            changes.done(nodes[result], "refitted in order")
        for result, reason in fits.declined.items():
            changes.refuse(nodes[result], reason)
        undone = sum(reason == STOPPED for reason in (*found.left.values(), *fits.declined.values()))
        if undone:
            changes.notes.append(
                f"factorize was interrupted: {undone} of {len(forms)} layers stay whole for it, goals may be missed"
            )
        return changes

    def sketch(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Factorise by the weights alone: prices depend on little else.

        `max_drop`, which only images can tell, is taken for an `error` of as many percent.
        """
        own = replace(self, fit="weights", repair="none")
        if self.max_drop is not None:
            own = replace(own, max_drop=None, error=self.max_drop / 100)
        return own.run(graph, replace(ctx, calibration=None))

    def proposals(self, graph: gs.Graph, ctx: Context, error: float, sizes: Mapping[str, int]) -> Proposals:
        """What each layer could become by the methods of the pass; see `lpcc.pipeline.proposals.ProposesFactors`."""
        alone = Changes()
        forms = dict(self._forms(graph, ctx, alone))
        found = Layers(graph, forms, self._sums(graph, forms, ctx), self, ctx, sizes).proposals(error)
        refused = {refusal.node: refusal.reason for refusal in alone.refused}
        return replace(found, left={**refused, **found.left})

    def _forms(self, graph: gs.Graph, ctx: Context, changes: Changes) -> Iterator[tuple[str, Form]]:
        """The layers that can be factorised, by the tensors that they make."""
        own, main = frozenset(self.skip) - ctx.returned, {id(node) for node in graph.nodes}
        for node in edit.nodes(graph):
            if edit.op(node) not in OPERATORS or edit.label(node) in own:
                continue
            if id(node) not in main:
                changes.refuse(node, "it stands in a body of If, Loop or Scan")
                continue
            try:
                yield str(node.outputs[0].name), Form.of(node)
            except Declined as reason:
                changes.refuse(node, str(reason))

    def _allotted(self, graph: gs.Graph, forms: Mapping[str, Form], ctx: Context) -> Allotment:
        """As if the guard had taken nothing back: the others are not cut more for it."""
        own = replace(self, skip=tuple(name for name in self.skip if name not in ctx.returned))
        images = None if ctx.calibration is None else ctx.calibration.description
        key = f"factorize: {own} {images} {fingerprint(graph)}"

        def made() -> Allotment:
            sums = {} if self.ranks else self._sums(graph, forms, ctx)
            return Layers(graph, forms, sums, self, ctx).allot(lambda cuts: self._drop(graph, cuts, sums, ctx))

        return ctx.keep(key, made)

    def _drop(self, graph: gs.Graph, cuts: Mapping[str, Cut], sums: Mapping[str, Sums], ctx: Context) -> float:
        """Percent of the images kept apart that change their class. Raises UsageError: no images, or no classes."""
        if ctx.calibration is None:
            raise UsageError("factorize: max-drop is measured on images: there are none")
        from lpcc.runtime import Session

        trial = clone(graph)
        self._fits(graph, cuts, sums, ctx).write(trial)
        model = to_proto(graph)
        whole, cut = Session(model), Session(to_proto(trial))
        batches = batches_apart(ctx.calibration, images_used(ctx.calibration, self.images), self.images)

        def ran(session: Session, batch: Batch) -> dict[str, Any]:
            return {name: batch.valid(values) for name, values in session.run(batch.feeds).items()}

        runs = ((batch.count, ran(whole, batch), ran(cut, batch)) for batch in batches)
        names = [spec.name for spec in whole.outputs]
        agreement = compare_runs(runs, names, class_outputs(model)).agreement
        if agreement is None:
            raise UsageError("factorize: max-drop counts classes, and no output says any: give `error` instead")
        return 100 - agreement

    def _fits(self, graph: gs.Graph, cuts: Mapping[str, Cut], sums: Mapping[str, Sums], ctx: Context) -> Fits:
        """The factors: by weights, by what layers read, or in order if that brings the outputs closer.

        Whoever presses Ctrl-C before all are fitted in order has those that were fitted by themselves.
        """
        if self.fit == "weights" or ctx.calibration is None:
            return one_by_one(graph, cuts, cache=self.cache)
        own = one_by_one(graph, cuts, sums, self.cache)
        if self.repair == "none" or STOPPED in own.declined.values():
            return own
        used = images_used(ctx.calibration, self.images)
        batches = list(used.head(images_held(graph, len(used), _WALK_BYTES)).batches(BATCH))
        alone, walked = clone(graph), clone(graph)
        own.write(alone)
        try:
            ordered = in_order(graph, walked, cuts, batches, ctx, self.skip, self.cache)
        except KeyboardInterrupt:  # what is done already serves, too
            return own
        apart = images_apart(ctx.calibration, used, self.images)
        return (own, ordered)[closest(graph, [alone, walked], apart)]

    def _norms(self, graph: gs.Graph, fits: Fits, ctx: Context) -> Mapping[str, Norm]:
        """The batch norms between two layers, where they are asked for."""
        if not self.bn:
            return {}
        data = None if ctx.calibration is None else images_used(ctx.calibration, self.images).head(_NORMED)
        return norms(graph, fits, data, lambda done, total: ctx.progress("what is between two layers", done, total))

    def _sums(self, graph: gs.Graph, layers: Mapping[str, Any], ctx: Context) -> Mapping[str, Sums]:
        """What layers read on the images, by the tensors that they make; of those of which it can be told."""
        if self.fit == "weights" or ctx.calibration is None:
            return {}
        nodes, readings = by_result(graph), []
        for result in layers:
            try:
                readings.append(Reading.of(nodes[result]))
            except NoPatches:
                continue
        return sums_of(graph, readings, images_used(ctx.calibration, self.images), ctx)
