"""What a pass is: a named, frozen rewrite of a graph, with a contract that is checked."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from lpcc import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.pipeline.context import Context


class Fidelity(Enum):
    """How close a pass keeps the outputs to those of the model before it."""

    EXACT = "exact"  # equal within rounding
    APPROXIMATE = "approximate"  # judged by the accuracy budget
    RETRAINED = "retrained"  # weights are learned anew; judged by the accuracy budget


class Need(Enum):
    """What a pass needs beyond the graph. Checked for the whole pipeline before any work is done."""

    CALIBRATION = "calibration"  # images, real or synthesised
    LABELS = "labels"  # labelled images
    TRAINER = "trainer"  # the training extra (torch)
    TRAINING = "training"  # images to train on
    TARGET = "target"  # a target device


@dataclass(frozen=True)
class Range:
    """Closed range of finite numbers that an option takes, as in ``Annotated[float, Range(0, 1)]``."""

    min: float | None = None
    max: float | None = None

    def __contains__(self, value: float) -> bool:
        least, most = -math.inf if self.min is None else self.min, math.inf if self.max is None else self.max
        return math.isfinite(value) and least <= value <= most

    def __str__(self) -> str:
        if self.max is None:
            return f"at least {self.min:g}" if self.min is not None else "any number"
        return f"at most {self.max:g}" if self.min is None else f"between {self.min:g} and {self.max:g}"


@dataclass(frozen=True)
class Rewrite:
    """One thing that a pass did: at which node, and what."""

    node: str
    what: str


@dataclass(frozen=True)
class Refusal:
    """One place where a pass could have acted and did not: at which node, and why."""

    node: str
    reason: str


@dataclass
class Changes:
    """What a pass did to a graph and what it refused. True when the graph changed."""

    rewrites: list[Rewrite] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    damage: dict[str, float] = field(default_factory=dict)
    """By layer, the noise at the model's outputs if nothing else had been done than for it; where the pass knows.

    As `lpcc.quality.noise_of` counts it; of layers that change together, the first stands for all. The guard goes by it
    where it has layers go back.
    """
    notes: list[str] = field(default_factory=list)
    """What the user should know whatever comes of it: a goal that was given up, work that was stopped."""

    def done(self, node: gs.Node | str, what: str) -> None:
        """Record a rewrite at `node`; `what` is a short constant phrase, by which rewrites are counted."""
        self.rewrites.append(Rewrite(edit.label(node), what))

    def refuse(self, node: gs.Node | str, reason: str) -> None:
        """Record that `node` was left alone, and why."""
        self.refused.append(Refusal(edit.label(node), reason))

    @property
    def counts(self) -> dict[str, int]:
        """How many rewrites of each kind, in the order of first occurrence."""
        return dict(Counter(rewrite.what for rewrite in self.rewrites))

    def __bool__(self) -> bool:
        return bool(self.rewrites)


Analysis = Callable[["gs.Graph"], object]


@dataclass(frozen=True)
class Pass(ABC):
    """A named graph rewrite. Its fields are its options; its class variables are its contract.

    A pass changes the graph in place and says what it did. It never changes the model's interface: names, types and
    order of inputs and outputs. What it does not understand it leaves alone, with the reason in `Changes.refused`.
    """

    name: ClassVar[str]
    fidelity: ClassVar[Fidelity]
    needs: ClassVar[frozenset[Need]] = frozenset()
    for_size: ClassVar[bool] = False
    """Whether what an approximate pass gains is a smaller file: it pays where the result is not slower."""

    @property
    def required(self) -> frozenset[Need]:
        """What it needs with its options as they are: `needs`, or less."""
        return self.needs

    @abstractmethod
    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Rewrite `graph` in place; the result counts what changed, and notes what was refused and why."""

    def sketch(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Rewrite `graph` to what it would look like, for a cost model to price: nothing that `needs` names is there.

        A pass that needs images to find its numbers makes these up here; the result is not to be run.
        """
        return self.run(graph, ctx)

    def __str__(self) -> str:
        from lpcc.pipeline.syntax import format_pass

        return format_pass(self)


@dataclass(frozen=True)
class LocalPass(Pass):
    """A pass that treats the main graph and the bodies of If, Loop and Scan alike, one graph at a time."""

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Call `rewrite` on the graph and on each nested subgraph, outermost first."""
        changes = Changes()
        for scope in edit.graphs(graph):
            self.rewrite(scope, ctx, changes)
        return changes

    @abstractmethod
    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:
        """Rewrite one graph, not its subgraphs, in place."""
