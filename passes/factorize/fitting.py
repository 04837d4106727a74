"""Layers cut to their ranks: by their weights alone, by what they read, or in order, each by what is left before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.calibrate.patches import NoPatches
from lpcc.data import Batch
from lpcc.errors import ModelError
from lpcc.passes.factorize.emit import Norm, write
from lpcc.passes.factorize.factors import Factors, Rank
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.kept import decompose
from lpcc.passes.normalize.linear import LINEAR
from lpcc.passes.reconstruct import InOrder, Reading, Sums, behind, best_fit, by_result
from lpcc.pipeline import Context

Array = np.ndarray[Any, Any]


STOPPED: Final = "stopped before its turn"
"""Why a layer stays whole that was not done yet when somebody pressed Ctrl-C."""


@dataclass(frozen=True)
class Cut:
    """How a layer is to be cut: a method of `METHODS`, and its rank."""

    method: str
    rank: Rank
    factors: Factors | None = field(default=None, compare=False, repr=False)
    """What came of it, by what the layer reads in the network as it is, where that was looked for already."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A layer in factors that were found for what it reads."""

    form: Form
    factors: Factors
    bias: Array | None = None
    """What the last of the new layers adds, (groups, outputs); None: what the layer added."""


@dataclass(frozen=True, eq=False)
class Fits:
    """What becomes of the layers of a graph, by the tensors that they make."""

    factorised: dict[str, Fit] = field(default_factory=dict)
    refitted: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    """Weights (groups, depth, outputs) and bias (groups, outputs) of other layers that make up for something."""
    declined: dict[str, str] = field(default_factory=dict)
    """Why a layer stays whole after all."""

    def write(self, graph: gs.Graph, norms: Mapping[str, Norm] = MappingProxyType({})) -> list[gs.Node]:
        """Rewrite `graph` accordingly; the last nodes of the layers that were factorised.

        `norms` are batch norms to be put between two layers, by the tensors that these make.
        """
        found = []
        with edit.Edit(graph) as e:
            for node in e.nodes:
                result = str(node.outputs[0].name) if node.outputs else ""
                if result in self.factorised:
                    try:
                        put(e, node, self.factorised[result], norms.get(result))
                    except Declined as reason:
                        self.declined[result] = str(reason)
                    else:
                        found.append(node)
                elif result in self.refitted:
                    with suppress(NoPatches):
                        Reading.of(node).write(e, *self.refitted[result])
        return found


def put(e: edit.Edit, node: gs.Node, fit: Fit, norm: Norm | None = None) -> None:
    """Replace a node by its factors. Raises Declined where these do not fit into the type of its weights."""
    write(e, node, fit.form, fit.factors, norm)
    if fit.bias is not None:
        try:
            last = Reading.of(node)
            last.write(e, last.matrix(), fit.bias)
        except NoPatches:
            return  # the mean of what it makes is a little off


def one_by_one(
    graph: gs.Graph, cuts: Mapping[str, Cut], sums: Mapping[str, Sums] = MappingProxyType({}), cache: str = ""
) -> Fits:
    """The layers of `cuts`, by the tensors that they make, each cut as if the others stayed whole.

    What it makes changes least on the images that `sums` is of; where it has none, its weights do. In the folder
    `cache`, if any, is kept what takes long. Whoever presses Ctrl-C has the layers that are done.
    """
    found, nodes = Fits(), by_result(graph)
    for result, cut in cuts.items():
        try:
            form, own = Form.of(nodes[result]), sums.get(result)
            factors = cut.factors
            if factors is None:
                moments = None if own is None else own.gram.astype(np.float64)
                factors = decompose(cut.method, form, moments, cache).factors(cut.rank)
        except Declined as reason:
            found.declined[result] = str(reason)
            continue
        except KeyboardInterrupt:
            break
        found.factorised[result] = Fit(form, factors, _made_up(nodes[result], form, factors, own))
    for result in cuts:
        if result not in found.factorised:
            found.declined.setdefault(result, STOPPED)
    return found


def _made_up(node: gs.Node, form: Form, factors: Factors, sums: Sums | None) -> Array | None:
    """The bias with which what the layer makes keeps its mean."""
    if sums is None:
        return None
    reading = Reading.of(node)
    if not reading.takes_bias:
        return None
    lost = form.matrix - factors.basis @ factors.last
    made_up: Array = reading.bias() + np.einsum("gd,gdo->go", sums.mean, lost)
    return made_up


def in_order(
    original: gs.Graph,
    graph: gs.Graph,
    cuts: Mapping[str, Cut],
    batches: Sequence[Batch],
    ctx: Context,
    skip: Collection[str] = (),
    cache: str = "",
) -> Fits:
    """Each fitted to what it made in `original`, from what the layers before it make now; `graph`, a clone, is changed.

    Layers that are not cut, but read what has changed, are refitted in the same way (see `lpcc.passes.reconstruct`),
    but for those named in `skip`. So Zhang et al., Accelerating very deep convolutional networks (2015, arXiv
    1505.06798), section 3.3, let layers account for the errors of those before them. Layers whose rows cannot be had
    are cut by their weights. `cache` as in `one_by_one`.
    """
    found, nodes = Fits(), by_result(graph)
    changed = behind(original, cuts)
    layers = [
        node
        for node in original.nodes
        if node.outputs
        and (node.outputs[0].name in cuts or (edit.op(node) in LINEAR and node.inputs[0].name in changed))
        and edit.label(node) not in skip
    ]
    walk = InOrder(original, graph, batches, [nodes[node.outputs[0].name] for node in layers], {})
    for done, before in enumerate(layers):
        ctx.progress("factorise layers", done, len(layers))
        result = str(before.outputs[0].name)
        now = nodes[result]
        walk.reached(now)
        if result not in cuts:
            with suppress(NoPatches, ModelError):
                walk.refit(Reading.of(before), Reading.of(now))
                fitted = Reading.of(now)
                found.refitted[result] = fitted.matrix(), fitted.bias()
            continue
        try:
            fit = _in_turn(walk, before, now, cuts[result], cache)
            with edit.Edit(graph) as e:
                put(e, now, fit)
        except Declined as reason:
            found.declined[result] = str(reason)
            continue
        walk.changed()
        found.factorised[result] = fit
    ctx.progress("factorise layers", len(layers), len(layers))
    return found


def _in_turn(walk: InOrder, before: gs.Node, now: gs.Node, cut: Cut, cache: str) -> Fit:
    """A layer cut by what it reads now, towards what it made before. Raises Declined."""
    form = Form.of(now)
    try:
        reading = Reading.of(now)
        fit, check = walk.pairs(Reading.of(before), reading)
    except (NoPatches, ModelError):
        return Fit(form, decompose(cut.method, form, None, cache).factors(cut.rank))
    try:
        weights = best_fit(reading, fit, check)[0]
    except NoPatches:  # no fit is better than what it has
        weights = reading.matrix()
        fit.join(check)
    sums = fit.sums(reading)
    factors = decompose(cut.method, form.with_matrix(weights), sums.gram, cache).factors(cut.rank)
    bias = fit.bias(reading, sums, factors.basis @ factors.last) if reading.takes_bias else None
    return Fit(form, factors, bias)
