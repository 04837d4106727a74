"""The criterion that the others have to beat."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups
from lpcc.passes.prune.criteria.base import Criterion
from lpcc.pipeline import Context

Array = np.ndarray[Any, Any]


class Random(Criterion):
    """Chance: each channel gets a number that is drawn evenly from [0, 1), the same for the same seed.

        s_c  ~  U[0, 1)

    Mittal et al., Recovering from random pruning (2018, arXiv 1801.10447), show how much of what a criterion seems to
    gain is gained by training afterwards. Needs nothing and never raises.
    """

    name: ClassVar[str] = "random"
    comparable: ClassVar[bool] = True

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:  # noqa: ARG002
        """A score for each channel, float64 (found.count,)."""
        return ctx.rng("criterion random").random(found.count)
