"""What a pass may use besides the graph: the target, the images, a seed, cached analyses."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.data import Dataset
    from lpcc.pipeline.base import Need
    from lpcc.target import Target

T = TypeVar("T")


@dataclass
class Context:
    """Everything that a pipeline run shares among its passes.

    `calibration` is a stream of unlabelled images, real or synthesised; `evaluation` a labelled one; `training` one to
    train on, always real. `teacher` is the graph as it was before the first pass that is not exact. `unquantized` is
    the graph as it was before the last pass that rounded its weights, with the same names of nodes and tensors: what
    passes that repair the rounding work towards. `returned` names the layers that the guard took back: they are in the
    `skip` of passes, whether they are still there or not. `hints` gives, for tensors that a batch norm made in the
    model as it came, the mean and standard deviation of each channel (C,). `progress` is called with a description, the
    steps done and the total (0 where unknown) by work that may take over a second.
    """

    target: Target | None = None
    calibration: Dataset | None = None
    evaluation: Dataset | None = None
    training: Dataset | None = None
    seed: int = 0
    teacher: gs.Graph | None = None
    unquantized: gs.Graph | None = None
    returned: frozenset[str] = frozenset()
    hints: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None
    _analyses: dict[Callable[[Any], Any], tuple[object, Any]] = field(default_factory=dict, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def analysis(self, function: Callable[[gs.Graph], T], graph: gs.Graph) -> T:
        """Result of `function(graph)`, computed once until a pass changes the graph."""
        cached = self._analyses.get(function)
        if cached is None or cached[0] is not graph:
            cached = (graph, function(graph))
            self._analyses[function] = cached
        result: T = cached[1]
        return result

    def invalidate(self) -> None:
        """Drop every cached analysis. The runner calls it after each pass that changed the graph."""
        self._analyses.clear()

    def keep(self, key: str, make: Callable[[], T]) -> T:
        """Value of `make()`, computed once per run and kept across changes of the graph.

        For results of long work that stay true because the key names all that they depend on.
        """
        if key not in self._kept:
            self._kept[key] = make()
        result: T = self._kept[key]
        return result

    def rng(self, salt: str) -> np.random.Generator:
        """A random generator that depends on the seed and on `salt` (the pass and what it draws for) alone."""
        return np.random.default_rng([self.seed, zlib.crc32(salt.encode())])

    def has(self, need: Need) -> bool:
        """Whether `need` is met."""
        from importlib.util import find_spec

        from lpcc.pipeline.base import Need

        return {
            Need.CALIBRATION: self.calibration is not None,
            Need.LABELS: self.evaluation is not None,
            Need.TARGET: self.target is not None,
            Need.TRAINING: self.training is not None,
            Need.TRAINER: find_spec("torch") is not None,
        }[need]
