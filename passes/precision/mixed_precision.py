"""The pass `mixed-precision`: as many bits for each layer as it needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.macs import constant_bytes, macs
from lpcc.analysis.shapes import bind
from lpcc.errors import UsageError
from lpcc.graph import clone, from_proto, to_proto
from lpcc.passes.normalize import RaiseOpset
from lpcc.passes.precision.prices import Prices
from lpcc.passes.precision.solve import Assignment, Choices, Outcome, least_bytes, least_damage, options_of
from lpcc.passes.quantize import Quantize
from lpcc.passes.quantize.bits import FLOAT, format_choices, parse_choice
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Pipeline, Range
from lpcc.search import Infeasible

if TYPE_CHECKING:
    from lpcc.data import Dataset
    from lpcc.sensitivity import Subject, Table

Array = np.ndarray[Any, Any]

_BASE = "8"
_WORK = 8_000_000_000
"""Multiply-accumulates that judging one trial takes, about: it decides how many images are used."""
_IMAGES = (32, 200)
_MOST_IMAGES = 200
_MOST_VALUES = 1 << 25
"""Of the images that sensitivities are measured with: 128 MiB."""


@dataclass(frozen=True)
class MixedPrecision(Pass):
    """Quantise with as many bits for each layer as it needs: least damage for a size or a speed, or least size for it.

    For each layer and each of the `choices` the damage is measured: how far the outputs go from the original's on
    calibration images (`lpcc.quality.noise`) with this layer on integers alone and all others in float. Damages of
    different layers add up nearly, as their rounding errors are nearly independent (among quantised layers the others'
    noise would drown what is measured):

        minimise    sum over layers of damage(layer, choice)
        subject to  sum over layers of bytes(layer, choice) <= `size` x bytes of the network in 8 bits
                    sum over layers of ms(layer, choice) <= ms of the float network / `speedup`

    which is solved exactly (`lpcc.search.knapsack`). With `max_drop` the bytes are minimised instead, under the
    greatest sum of damages with which the real network changes the highest class of no more than `max_drop` percent of
    the images. What was found is then checked on the network itself, whose bytes, milliseconds and changed classes
    count, and solved again with tighter limits where it misses. One choice for all layers is tried, too, and, as what
    layers in 16 bits gain together no layer shows alone, with 16 bits also the best without each of the choices, and
    with `speedup` that for less time than asked: what keeps to the limits with the least noise of the whole network
    (with `max_drop` the fewest bytes) is taken.
    `quantize` writes the result, with its option ``bits``.

    A layer of mixed channels (``4+8:25%``) keeps those in 8 bits whose weights lose most. Additive sensitivities: Dong
    et al., HAWQ: Hessian aware quantization of neural networks (2019), with measured damage in place of second
    derivatives. Precision that follows need layer by layer: Moons et al., Energy-efficient ConvNets through approximate
    computing (2016); by filter: Ding et al., FLightNNs (2019), after LightNN (2017); under a constraint of the device:
    Li et al., CompactNet: platform-aware automatic optimization for convolutional neural networks (2019).

    `size` counts all constants as the file packs them (weights, biases, scales, zero points, and weights that stay in
    float), as a share of those of the network that `using` writes with all weights in 8 bits. `speedup` is against the
    network as it comes to this pass, by the target's cost model.

    The graph is left alone, with the reason, where `quantize` leaves it alone; for `max_drop` where no output is class
    scores; and where layers in `skip` leave too little to meet what is asked. What cannot be met at all is an error.
    """

    name: ClassVar[str] = "mixed-precision"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION, Need.TARGET})

    max_drop: Annotated[float, Range(0, 100)] | None = None
    """Percent of the calibration images whose highest class may change."""
    size: Annotated[float, Range(0, 4)] | None = None
    """Share of the bytes of the network in 8 bits that the result may take."""
    speedup: Annotated[float, Range(min=0.01)] | None = None
    """How many times as fast as the float network the result must be on the target."""
    choices: tuple[str, ...] = ("8", "4+8:50%", "4+8:25%", "4")
    """What each layer may be given: 2, 4, 8, 16 (its activations) or float, or 4+8:25% as `quantize` takes it."""
    using: str = "quantize"
    """The pass that writes the result: `quantize` with its options."""
    cache: str = ""
    """Folder in which measured sensitivities are kept: a run that was stopped goes on, a second one is quick."""
    processes: Annotated[int, Range(min=0)] = 0
    """Processes that measure at the same time; 0: one for each core. The result does not depend on it."""
    skip: tuple[str, ...] = ()
    """Names of layers to be kept in float."""

    def __post_init__(self) -> None:
        if self.max_drop is None and self.size is None and self.speedup is None:
            raise ValueError("give `max-drop`, `size` or `speedup`")
        for choice in self.choices:
            parse_choice(choice)

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Measure, solve, check and quantise; see the class."""
        prices = Prices(graph, self._using(), ctx)
        layers, data = prices.layers(), ctx.calibration
        if not layers or data is None:
            return self._using().run(graph, ctx)  # which says why
        subject = self._subject(graph, layers, ctx, data)
        # A layer by itself would often not pay for its conversions, and those that never do are none of its choices.
        quick = self._quick()
        alone = replace(subject, item=replace(quick, min_work=0.0, skip=(*quick.skip, *prices.others())))
        table = self._table(alone, layers, ctx)
        if self.max_drop is not None and math.isnan(table.of(FLOAT).values["agreement"]):
            return _refused(graph, "`max-drop` counts changes of the highest class, and no output is class scores")
        found = self._solved(prices, layers, partial(_damage, table), _real(subject, prices, ctx))
        if isinstance(found, str):
            return _refused(graph, found)
        return self._writing(found).run(graph, ctx)

    def sketch(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Quantise with ranges made up; the damage is taken to be that of the weights themselves."""
        prices = Prices(graph, self._using(), ctx)
        layers = prices.layers()
        if not layers:
            return self._using().sketch(graph, ctx)

        def outcome(assignment: Assignment) -> Outcome:
            made = prices.sketched(assignment)
            noise = math.fsum(prices.weight_damage(layer, choice) for layer, choice in assignment.items())
            return Outcome(constant_bytes(made), prices.latency(made), 0.0, noise)

        found = self._solved(prices, layers, prices.weight_damage, outcome)
        return _refused(graph, found) if isinstance(found, str) else self._writing(found).sketch(graph, ctx)

    def _solved(
        self,
        prices: Prices,
        layers: list[str],
        damage: Callable[[str, str], float],
        outcome_of: Callable[[Assignment], Outcome],
    ) -> Assignment | str:
        """The assignment, or why the layers in `skip` leave none.

        Raises:
            Infeasible: what is asked cannot be met.
        """
        skipped = [layer for layer in layers if layer in self.skip]
        free = [layer for layer in layers if layer not in self.skip]
        fixed: Assignment = dict.fromkeys(skipped, FLOAT)
        timed = self.speedup is not None
        base = outcome_of({**dict.fromkeys(free, _BASE), **fixed})
        whole = base if not skipped else outcome_of(dict.fromkeys(layers, _BASE))
        goal = Outcome(
            whole.bytes * (math.inf if self.size is None else self.size),
            math.inf if self.speedup is None else prices.float_milliseconds() / self.speedup,
            math.inf if self.max_drop is None else self.max_drop,
        )
        choices = list(dict.fromkeys(self.choices))
        latency = prices.added_milliseconds(free, choices) if timed else {}
        options = options_of(free, choices, damage, prices.bytes_of, latency)
        solve = least_damage if self.max_drop is None else least_bytes
        known: dict[tuple[str, ...], Outcome] = {}

        def of_all(assignment: Assignment) -> Outcome:
            key = tuple(assignment[layer] for layer in free)
            if key not in known:
                known[key] = outcome_of({**assignment, **fixed})
            return known[key]

        try:
            self._check(options, base, whole, goal)
            found = solve(options, base, goal, of_all)
        except Infeasible as error:
            if not skipped:
                raise
            return f"with {len(skipped)} of the layers in float {error}"
        return {**found, **fixed}

    def _check(self, options: Choices, base: Outcome, whole: Outcome, goal: Outcome) -> None:
        """Say what is possible where a limit is out of reach even by itself. Raises Infeasible."""
        for layer, given in zip(options.layers, options.options, strict=True):
            if not any(all(map(math.isfinite, option.values())) for option in given.values()):
                raise Infeasible(f"onnxruntime runs `{layer}` in none of its choices ({', '.join(given)})")
        least, fastest = base.bytes + options.ends("bytes")[0], base.ms + options.ends("ms")[0]
        if least > goal.bytes:
            share = math.ceil(1000 * least / whole.bytes) / 1000
            raise Infeasible(
                f"no choice of bits takes {self.size:g} of the bytes in 8 bits: the least possible is {share}"
            )
        if self.speedup is not None and fastest > goal.ms:
            most = math.floor(100 * self.speedup * goal.ms / fastest) / 100
            raise Infeasible(
                f"no choice of bits is {self.speedup:g} times as fast as float: the most possible is {most}"
            )

    def _using(self) -> Quantize:
        passes = Pipeline.parse(self.using).passes
        if len(passes) != 1 or not isinstance(passes[0], Quantize):
            raise UsageError(
                f"option `using` of `mixed-precision` takes `quantize` with its options, not `{self.using}`"
            )
        return passes[0]

    def _quick(self) -> Quantize:
        """What measures: without the search of `auto`, which takes long and finds nearly the same for all choices."""
        using = self._using()
        return replace(using, ranges="mse") if using.ranges == "auto" else using

    def _writing(self, assignment: Assignment) -> Quantize:
        return replace(self._using(), bits=format_choices(assignment))

    def _subject(self, graph: gs.Graph, layers: list[str], ctx: Context, data: Dataset) -> Subject:
        from lpcc.sensitivity import Subject

        images = _images(data)
        count = len(next(iter(images.values())))
        work = sum(macs(graph, bind(graph)).values())
        judged = min(count, int(np.clip(_WORK // max(1, work), *_IMAGES)))
        opset = max(width.opset for choice in (_BASE, *self.choices) if (width := parse_choice(choice)) is not None)
        raised = clone(graph)
        RaiseOpset(to=opset).run(raised, ctx)  # once, and not in each trial; where it refuses, each does
        model = to_proto(raised).SerializeToString(deterministic=True)
        first = tuple((layer, _BASE) for layer in layers)
        return Subject(model, self._quick(), "bits", images, judged, ctx.target, seed=ctx.seed, first=first)

    def _table(self, subject: Subject, layers: list[str], ctx: Context) -> Table:
        """Measured once in a run, also where the guard asks again with other layers skipped."""
        from lpcc.sensitivity import leave_one_in, measure

        def measured() -> Table:
            return measure(
                subject,
                leave_one_in(layers, list(dict.fromkeys((_BASE, *self.choices))), FLOAT),
                cache=Path(self.cache) if self.cache else None,
                processes=self.processes or None,
                progress=partial(ctx.progress, "measure sensitivities"),
            )

        return ctx.keep(f"mixed-precision: {subject.digest} {self.choices}", measured)


def _damage(table: Table, layer: str, choice: str) -> float:
    """Noise that a choice adds to that of 8 bits. What one of fewer bits takes away by chance counts for nothing."""
    alone = table.damage(FLOAT, layer, choice)
    added = alone - table.damage(FLOAT, layer, _BASE)
    return added if choice in (FLOAT, "16") else max(added, 0.0)


def _real(subject: Subject, prices: Prices, ctx: Context) -> Callable[[Assignment], Outcome]:
    """What the network itself takes with an assignment, and how many of all images change."""
    from lpcc.sensitivity import Bench

    count = len(next(iter(subject.images.values())))
    bench = ctx.keep(f"mixed-precision: bench {subject.digest}", lambda: Bench(replace(subject, judged=count)))

    def outcome(assignment: Assignment) -> Outcome:
        model = bench.model(assignment)
        values = bench.judge(model)
        agreement = values["agreement"]
        changed = 0.0 if math.isnan(agreement) else 100.0 - agreement
        return Outcome(constant_bytes(from_proto(model)), prices.milliseconds(assignment), changed, values["noise"])

    return outcome


def _images(data: Dataset) -> dict[str, Array]:
    """The first images as arrays by input name."""
    first = next(iter(data.head(1).batches(1))).feeds
    values = sum(array.size for array in first.values())
    count = max(1, min(len(data), _MOST_IMAGES, _MOST_VALUES // max(1, values)))
    batches = [
        {name: batch.valid(array) for name, array in batch.feeds.items()} for batch in data.head(count).batches(count)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in first}


def _refused(graph: gs.Graph, reason: str) -> Changes:
    changes = Changes()
    changes.refuse(graph.name or "graph", reason)
    return changes
