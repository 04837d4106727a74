"""How far networks are from the float one, which they are to come closer to."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from lpcc.calibrate.holdout import Feeds
from lpcc.graph import to_proto
from lpcc.quality.noise import Noise, noise_parts

TAKEN_BACK = "taken back: the outputs come no closer to those of the float network"


def distances(before: gs.Graph, candidates: Sequence[gs.Graph], feeds: Feeds) -> list[Noise]:
    """How far the candidates' outputs are from those of `before`, the float network."""
    from lpcc.runtime import Session

    outputs = []
    for graph in (before, *candidates):
        session = Session(to_proto(graph))
        outputs.append([session.run(feed) for feed in feeds])
    return [noise_parts(zip(outputs[0], found, strict=True)) for found in outputs[1:]]
