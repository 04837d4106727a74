"""The pass `adaround`: whether each weight is rounded up or down is learned, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from lpcc.calibrate.patches import NoPatches
from lpcc.passes.repair.gram_rounding import Sums
from lpcc.passes.repair.layers import ON_GRID, Rounding, Site
from lpcc.passes.repair.layerwise import LayerwiseRepair, Solver
from lpcc.passes.repair.soft_rounding import learn
from lpcc.pipeline import Context, Range

Array = np.ndarray[Any, Any]

_PER_IMAGE = (4, 128)
_NUMBERS = 1 << 25
"""Numbers that the rows of one layer may have in all."""


@dataclass(frozen=True)
class AdaRound(LayerwiseRepair):
    """Learn for each weight whether it is rounded up or down, so that the layer's output changes least.

    Between the two integers next to it, a weight w of scale s is

        s (floor(w / s) + h(v)),     h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)

    and v is learned (Adam, in numpy) for the least ``|f(x W + b) - f(y)|^2 + r sum(1 - |2 h(v) - 1|^beta)``, where x is
    what the layer reads in the quantised network as repaired so far, y what it writes in the float one, and f the
    activation behind it; beta falls from 20 to 2 and drives h to 0 or 1. The bias is learned with it. Nagel et al., Up
    or down? Adaptive rounding for post-training quantization (2020, arXiv 2004.10568), there with 10,000 steps of
    smaller size; errors are measured here in units of what rounding to the nearest causes, so that one rate and one r
    suit all layers.

    `round-weights` decides the same in closed form, faster, and mostly better by little (docs/repair.md): its roundings
    are found too, and each layer gets what errs least on images kept apart.

    Integers stay within the grid that the layer has. Runs behind `quantize`, towards the float network that this left
    in the context.

    Left alone, each with its reason: layers whose float weights lie on the grid already, layers whose output on images
    kept apart comes no closer to the float one, layers that share their weights, transposed convolutions, weights of
    more than 8 bits, layers named in `skip`. All, half of the repairs and so on are taken back if the network's outputs
    on these images come no closer.
    """

    name: ClassVar[str] = "adaround"
    what: ClassVar[str] = "weights rounded as learned or in closed form"

    steps: Annotated[int, Range(min=10)] = 500
    """Steps of the optimiser for each layer."""
    batch: Annotated[int, Range(min=1)] = 256
    """Rows of a layer's input that one step looks at."""

    def solver(self, site: Site, ctx: Context) -> Solver:
        """Rows that are kept, to learn from."""
        if site.is_on_grid:
            raise NoPatches(ON_GRID)
        return _Learned(site, self.steps, self.batch, ctx.rng(f"adaround {site.name}"))

    def per_image(self, site: Site, images: int) -> int:
        """As many rows as there is memory for."""
        window = site.window
        return int(np.clip(_NUMBERS // (images * window.groups * (window.depth + window.outputs)), *_PER_IMAGE))


class _Learned(Solver):
    """Keeps the rows, and learns from them; then finds the closed form, from sums of their products."""

    def __init__(self, site: Site, steps: int, batch: int, rng: np.random.Generator) -> None:
        self._site = site
        self._steps = steps
        self._batch = batch
        self._rng = rng
        self._rows: list[tuple[Array, Array]] = []

    def add(self, read: Array, wanted: Array) -> None:
        """Keep rows."""
        self._rows.append((read, wanted))

    def solve(self) -> Iterator[Rounding]:
        """The rounding learned from the rows, then those in closed form."""
        read, wanted = (np.concatenate(part) for part in zip(*self._rows, strict=True))
        self._rows = []
        yield learn(self._site, read, wanted, self._steps, self._batch, self._rng)
        try:
            sums = Sums(self._site, compensate=True)
        except NoPatches:  # too deep for sums of products, not for rows
            return
        sums.add(read, wanted)
        yield from sums.solve()
