"""Where the ranges of `quantize` come from: statistics of one run, and searches that start from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc.calibrate import Extremes, Method, Statistics, collect, joint
from lpcc.calibrate.holdout import BATCH, used_and_apart
from lpcc.data import Dataset
from lpcc.passes.quantize import sixteen
from lpcc.passes.quantize.auto_ranges import closest, outputs_of, refine
from lpcc.passes.quantize.effort import Effort
from lpcc.passes.quantize.groups import Group
from lpcc.passes.quantize.output_ranges import Choice, refine_locally
from lpcc.passes.quantize.placement import Placement
from lpcc.pipeline import Context
from lpcc.quality.noise import noise_parts

Ranges = Literal["auto", "output", "minmax", "average", "percentile", "entropy", "mse"]

_LOOKED_AT: Mapping[str, Extremes] = {"minmax": "all", "average": "image", "output": "image", "auto": "image"}
_STARTS: Sequence[Method] = ("mse", "minmax", "average")
"""Where searches start; the first one is for tensors that no search was made for."""
_WORK = 16_000_000_000
"""Multiply-accumulates of one measurement at the outputs, about: it decides how many images are used."""
_IMAGES = (8, 128)
_LOCAL_WORK = 4_000_000_000
_LOCAL_IMAGES = (4, 32)
_APART = (8, 64)
_TRIES = 7
"""Ranges that are tried for a tensor, about."""
_SEARCH = 6_000_000_000_000
"""Work that a search may be in all (see `lpcc.passes.quantize.effort`): about a minute on two cores."""
_JUDGING = 1_500_000_000_000
"""Work that it may be to judge what the searches found."""
_FEWEST = 4
"""Images below which a search by the outputs is given up."""
_UNBOUNDED = (-np.inf, np.inf)


@dataclass(frozen=True)
class RangeOptions:
    """How ranges are chosen: the options of `quantize` of these names."""

    ranges: Ranges
    percentile: float
    symmetric: bool


class Ranging:
    """Ranges for one float network; statistics and searches are kept in the context, by the key given."""

    def __init__(self, model: onnx.ModelProto, key: str, data: Dataset, options: RangeOptions, ctx: Context) -> None:
        self._model = model
        self._key = key
        self._data = data
        self._options = options
        self._ctx = ctx
        self._extremes: Extremes = _LOOKED_AT.get(options.ranges, "sampled")

    def statistics(self, tensors: Iterable[gs.Tensor]) -> Mapping[str, Statistics]:
        """Statistics by name of a tensor; of those asked for, and of others that were asked for before."""
        found: dict[str, Statistics] = self._ctx.keep(f"quantize: {self._extremes} statistics of {self._key}", dict)
        missing = [t.name for t in tensors if t.name not in found]
        if missing:
            progress = partial(self._ctx.progress, "calibrate")
            found.update(collect(self._model, missing, self._data, progress, extremes=self._extremes))
        return found

    def groups(self, placement: Placement, dtype: np.dtype) -> dict[int, Group]:
        """By id of a leader, the tensors that share its scale, with the range that their statistics ask for."""
        asked = self._options.ranges
        return self._groups(placement, dtype, _STARTS[0] if asked == "auto" or asked == "output" else asked)

    def search(
        self, placement: Placement, dtype: np.dtype, effort: Effort, attempt: Callable[[Choice], onnx.ModelProto]
    ) -> Choice:
        """Ranges by the errors that they cause, for the options that ask for that; none for the others.

        `effort` is that of the float network; `attempt` quantises the network with a choice of ranges.
        """
        searches = {"output": self._by_layers, "auto": self._by_network}
        if self._options.ranges not in searches:
            return {}
        name = f"quantize: ranges by {self._options} for {self._key} {dtype} {sorted(placement.formats.wide)}"
        search = searches[self._options.ranges]
        return self._ctx.keep(name, lambda: search(placement, dtype, effort, attempt))

    def shortened(self, placement: Placement, dtype: np.dtype, effort: Effort) -> str | None:
        """Why the search is less than what was asked for; None where it is not."""
        groups = _searched(self.groups(placement, dtype))
        if self._options.ranges != "auto" or self._affordable(groups, effort) >= _FEWEST:
            return None
        return (
            f"ranges chosen by layers and judged by the outputs: to try those of {len(groups)} tensors by the outputs, "
            f"on {_FEWEST} images, would take minutes"
        )

    def few(self, effort: Effort) -> list[dict[str, np.ndarray]]:
        """Images to look at single layers with, a few at a time; the fewer, the more work an image is."""
        count = int(np.clip(_LOCAL_WORK // max(1, effort.macs), *_LOCAL_IMAGES))
        count = max(1, min(count, _SEARCH // (_TRIES * max(1, effort.work))))
        return [batch.feeds for batch in self._data.head(count).batches(_LOCAL_IMAGES[0])]

    def _by_layers(self, placement: Placement, dtype: np.dtype, effort: Effort, _: object) -> Choice:
        starts = self._starts(placement, dtype)
        feeds = self.few(effort)
        groups = _searched(self.groups(placement, dtype))
        progress = partial(self._ctx.progress, "ranges by layers")
        return refine_locally(self._model, groups, starts, feeds, progress)

    def _by_network(
        self, placement: Placement, dtype: np.dtype, effort: Effort, attempt: Callable[[Choice], onnx.ModelProto]
    ) -> Choice:
        local = self._by_layers(placement, dtype, effort, None)
        choices = [local, *self._starts(placement, dtype)]
        groups = _searched(self.groups(placement, dtype))
        count = self._affordable(groups, effort)
        judged = int(np.clip(_JUDGING // max(1, effort.work * (len(choices) + 2)), *_APART))
        used, apart = used_and_apart(self._data, max(count, BATCH), judged)
        expected_apart = outputs_of(self._model, apart)
        if count >= _FEWEST:
            if count < BATCH:
                used = [batch.feeds for batch in self._data.head(count).batches(BATCH)]
            expected = expected_apart if apart is used else outputs_of(self._model, used)
            whole = noise_parts(zip(expected, outputs_of(attempt(local), used), strict=True))
            progress = partial(self._ctx.progress, "ranges by outputs")
            choices.insert(0, refine(self._model, groups, choices, used, expected, whole, progress))
        self._ctx.progress("ranges judged", 0, 0)
        return closest(choices, attempt, apart, expected_apart)

    def _affordable(self, groups: Sequence[Group], effort: Effort) -> int:
        """Images that ranges can be tried on by the outputs."""
        of_one = _TRIES * sum(effort.after(group.tensors) for group in groups)
        return min(int(np.clip(_WORK // max(1, effort.macs), *_IMAGES)), _SEARCH // max(1, of_one))

    def _starts(self, placement: Placement, dtype: np.dtype) -> list[Choice]:
        found = [self._groups(placement, dtype, method) for method in _STARTS]
        return [{group.tensors: (group.low, group.high) for group in groups.values()} for groups in found]

    def _groups(self, placement: Placement, dtype: np.dtype, method: Method) -> dict[int, Group]:
        names: dict[int, set[str]] = {}
        for unit in placement.units:
            for tensor in [*unit.operands, *unit.results]:
                if id(tensor) in placement.leaders:
                    names.setdefault(id(placement.leaders[id(tensor)]), set()).add(tensor.name)
        groups = {}
        found = self.statistics(placement.tensors())
        for key, tensors in placement.measured.items():
            is_wide = key in placement.wide
            kind = sixteen.DTYPE if is_wide else dtype
            mirrored = is_wide or self._options.symmetric
            levels = int(np.iinfo(kind).max) - int(np.iinfo(kind).min) + 1
            measured = tuple(t.name for t in tensors)
            parts = [found[name] for name in measured if name in found]
            bounds = placement.bounds.get(key, _UNBOUNDED)
            least = max(min((part.histogram.low for part in parts), default=0.0), bounds[0])
            symmetric = mirrored and (least < 0 or kind.kind == "i")
            low, high = joint(
                parts, method, percentile=self._options.percentile, levels=levels - symmetric, symmetric=symmetric
            )
            followers = frozenset(names.get(key, ())) - set(measured)
            groups[key] = Group(measured, low, high, bounds, kind, followers, mirrored)
        return groups


def _searched(groups: Mapping[int, Group]) -> list[Group]:
    """The groups whose ranges are worth a search: of 65,536 steps a few more or less do not matter."""
    return [group for group in groups.values() if group.dtype.itemsize == 1]
