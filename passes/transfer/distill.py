"""`distill`: the network learns again from what it was before the lossy passes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, ClassVar

import onnx_graphsurgeon as gs

from lpcc.errors import UsageError
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range
from lpcc.train.recipe import Recipe


@dataclass(frozen=True)
class Distill(Recipe, Pass):
    """Train the network, as the passes before left it, to do what the network before the first lossy pass does.

    The images are those of ``--train``; no labels are needed. For student s, teacher t and image x, descent on

        L = sum_i w_i L_i(s(x), t(x))

    over the losses named in `loss`, whose equations and sources `lpcc.train.losses` states: soft targets (Hinton,
    Vinyals and Dean 2015, arXiv 1503.02531), hints (Romero et al. 2015, arXiv 1412.6550), attention, correlation and
    order of activations among them; ``auto`` takes soft targets for class scores and squared error elsewhere. The nodes
    of the graph are run in torch with its constants as parameters, and the trained values are written back into the
    same graph: nothing is exported anew. Weights that are zero stay zero, shared ones shared. Integers and few bits are
    trained through a straight-through estimator, scales with them (Esser et al., Learned step size quantization, 2020,
    arXiv 1902.08153), from the float weights on where a pass of this pipeline rounded them.

    A tenth of the images is held out. The epoch that does best on these is the result; where none does better than the
    network as it came, it stays as it came. The accuracy budget judges the result as that of any other pass.

    Left alone, with the reason: a network that no epoch made better, and one without a teacher, outside of
    `lpcc.optimize`. One without weights that can be trained is an error.
    """

    name: ClassVar[str] = "distill"
    fidelity: ClassVar[Fidelity] = Fidelity.RETRAINED
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TRAINER, Need.TRAINING})
    for_size: ClassVar[bool] = True

    loss: tuple[str, ...] = ("auto",)
    """Losses, each with a weight if wanted, as ``kd*0.7``; see docs/retraining.md."""
    pairs: tuple[str, ...] = ()
    """Hidden tensors to compare, each as ``"student=teacher"``; by default found by shape, position and correlation."""
    labels: bool = False
    """Whether the labels of the images count: for the loss ``hard``."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """The same seed gives the same weights on the same machine with the same number of threads; 0: the command's."""
    trainer: str = ""
    """``module:function`` that trains in the place of our loop: it gets the student and the teacher as torch modules,
    the images and these options, and gives the student back."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainer and (self.loss != ("auto",) or self.pairs):
            raise UsageError(f"{self.trainer}: a loop of your own has its own losses: leave out `loss` and `pairs`")
        if self.loss != ("auto",) and find_spec("torch") is not None:
            from lpcc.train.losses import parse

            parse("+".join(self.loss))  # a name that is wrong is told before any pass has worked

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Train the graph; see the class."""
        changes = Changes()
        whole = graph.name or "graph"
        data, teacher = ctx.training, ctx.teacher
        if teacher is None or data is None:
            changes.refuse(whole, "no pass before it lost anything: there is no teacher")
            return changes

        from lpcc.train.transfer import Lesson, transfer

        lesson = Lesson("+".join(self.loss), self.pairs, self.trainer)
        learned = transfer(
            graph,
            teacher,
            data if self.labels else data.unlabelled(),
            lesson,
            Recipe.of(self, seed=self.seed or ctx.seed),
            float_graph=ctx.unquantized,
            progress=ctx.progress,
        )
        for node in learned.nodes:
            changes.done(node, "weights trained")
        if learned.history is not None and not learned.nodes:
            changes.refuse(whole, learned.history.stopped)
        return changes

    def sketch(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Nothing: training changes no cost."""
        del graph, ctx
        return Changes()
