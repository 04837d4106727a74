"""What channel pruning costs and gains: with repair alone, with training, for a speed, and what each layer is worth.

    python benchmarks/pruning.py [--parts free criteria distill trim table beyond]

Parts `free` and `criteria`: ResNet-20 (CIFAR-10) and a VGG (Fashion-MNIST) of the zoo with 30 % to 75 % fewer
multiply-accumulates, no training, 1,000 calibration images; top-1 on the 5,000 and 10,000 test images. `distill`: the
same with 10 epochs of distillation on 10,000 unlabelled training images. `trim`: MobileNetV2 and SqueezeNet twice as
fast on this machine, predicted and measured in turns with onnxruntime, one thread. `table`: how long measuring the
sensitivity of ResNet-20's layers takes. `beyond`: what is said of requests that nothing can meet. Test images choose
nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import zoo

import lpcc
from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.data import Dataset
from lpcc.graph import from_proto, load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, compare
from lpcc.sensitivity import survey
from lpcc.target import Target

Array = np.ndarray[Any, Any]

RESNET, VGG = "cifar10_resnet20_jpegft", "fashion_mnist_vgg"
MOBILENET, SQUEEZENET = "mobilenetv2_imagenet", "squeezenet1_1_imagenet"
UNIFORM_L1 = "prune-channels{macs=%s criterion=l1 across=uniform repair=none multiple=1}"
FREE = (
    UNIFORM_L1,
    "prune-channels{macs=%s criterion=l1 across=uniform multiple=1}",
    "prune-channels{macs=%s across=uniform multiple=1}",
    "prune-channels{macs=%s across=global multiple=1}",
    "prune-channels{macs=%s repair=local multiple=1}",
    "prune-channels{macs=%s multiple=1}",
    "prune-channels{macs=%s}",
    "trim{macs=%s}",
)
"""From the usual baseline on, one thing changed at a time."""
CRITERIA = (
    "reconstruction",
    "l1",
    "l2",
    "geometric-median",
    "bn-scale",
    "apoz",
    "energy",
    "taylor",
    "fisher",
    "hessian",
)
CRITERIA += ("nisp", "particles", "random")
READY = (
    "freeze-inputs,lift-constants,fold-constants,resolve-shapes,fold-constants,resolve-shapes,remove-noops,dce,cse,dce"
)
"""Shapes folded, batch norms not: they are of use in training, and to some criteria."""
DISTILL = (
    "prune-channels{macs=%s multiple=1 across=even},"
    "distill{epochs=10 batch=32 optimiser=soap momentum=0.95 learning-rate=0.004 average=0.999 holdout=0 flip=true "
    'crop=2 seed=%d loss="%s"%s}'
)
PAIRS = {
    RESNET: [f"/layer{stage}/layer{stage}.{block}/Relu_1_output_0" for stage in (1, 2, 3) for block in (0, 1, 2)],
    VGG: [],
}
"""Tensors that hints compare, the ends of all residual blocks; empty: those that `distill` finds itself."""
ASKED = {(RESNET, "0.7", "free"): 6.0, (VGG, "0.5", "free"): 1.0, (RESNET, "0.5", "distill"): 1.5}
ASKED |= {(VGG, "0.25", "distill"): 1.0}
"""Points of top-1 that may be lost."""


def main() -> int:
    """Print the tables asked for; 1 where a number that was asked for is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"free": free, "criteria": criteria, "distill": distill, "trim": trim, "table": table, "beyond": beyond}
    parser.add_argument("--parts", nargs="+", choices=parts, default=tuple(parts))
    parser.add_argument("--target", default="host", help="of `trim`; of all others it is x86-avx512-vnni")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="of `distill`")
    parser.add_argument("--loss", default="kd{temperature=2}*4+hint*100", help="of `distill`")
    asked = parser.parse_args()
    missed = 0
    for part in asked.parts:
        print(f"\n## {part}\n")
        for line in parts[part](asked):
            print(line, flush=True)
            missed += "NOT met" in line
    return 1 if missed else 0


class Case:
    """A network of the zoo, its images, and the exact graph that it is compared with."""

    def __init__(self, name: str, ready: str, images: int) -> None:
        self.name = name
        self.graph = load(zoo.model(name))
        annotate(self.graph)
        run_pipeline(self.graph, Pipeline.parse(ready), Context())
        self.feeds, _ = zoo.load().feeds(name, "calib", images)
        self.tests, self.truth = zoo.load().feeds(name, "eval")
        self.inputs = Session(to_proto(self.graph)).inputs
        self.macs = total(self.graph)
        self.top1 = self.score(to_proto(self.graph))

    def context(self, target: str = "x86-avx512-vnni", images: int = 1000, train: int = 0) -> Context:
        """With the first images to calibrate on and, where wanted, the first ones to train on; none has a label."""
        ((name, array),) = self.feeds.items()
        return Context(
            target=Target.load(target),
            calibration=Dataset.from_arrays({name: array[:images]}, inputs=self.inputs),
            training=Dataset.from_arrays({name: array[:train]}, inputs=self.inputs) if train else None,
            teacher=self.graph if train else None,
        )

    def pruned(self, pipeline: str, ctx: Context) -> onnx.ModelProto:
        """What passes make of the network."""
        graph = from_proto(to_proto(self.graph))
        annotate(graph)
        run_pipeline(graph, Pipeline.parse(pipeline), ctx)
        return to_proto(graph)

    def left(self, model: onnx.ModelProto) -> float:
        """Share of the multiply-accumulates."""
        graph = from_proto(model)
        annotate(graph)
        return total(graph) / self.macs

    def score(self, model: onnx.ModelProto) -> float:
        """Percent of the test images of which a model says the right class, in onnxruntime."""
        session = Session(model, threads=2)
        ((name, array),) = self.tests.items()
        chosen = [
            session.run({name: array[i : i + 50]})[session.outputs[0].name]
            .reshape(len(array[i : i + 50]), -1)
            .argmax(1)
            for i in range(0, len(array), 50)
        ]
        return 100 * float((np.concatenate(chosen) == self.truth).mean())

    def row(self, pipeline: str, ctx: Context, asked: float | None = None) -> tuple[str, float]:
        """A line of a table, and the points of top-1 that were lost."""
        began = time.perf_counter()
        try:
            model = self.pruned(pipeline, ctx)
        except lpcc.LpccError as error:
            return f"| `{pipeline}` | {error} | | | |", np.inf
        minutes = (time.perf_counter() - began) / 60
        score = self.score(model)
        lost = self.top1 - score
        met = "" if asked is None else f"at most {asked:g}: {'met' if lost <= asked else 'NOT met'}"
        line = f"| `{pipeline}` | {self.left(model):.3f} | {score:.2f} | {lost:.2f} | {minutes:.1f} | {met} |"
        return line, lost


HEAD = "| passes | multiply-accumulates left | top-1 | points lost | minutes | asked |\n|---|---|---|---|---|---|"


def free(_: argparse.Namespace) -> Iterator[str]:
    """Without training, one thing changed at a time."""
    for name, shares in ((RESNET, ("0.7", "0.5")), (VGG, ("0.5", "0.25"))):
        case = Case(name, "exact", 1000)
        yield f"\n`{name}`: top-1 {case.top1:.2f} on {len(case.truth)} test images\n\n{HEAD}"
        for share in shares:
            lost = {}
            for text in FREE:
                asked = ASKED.get((name, share, "free")) if text in FREE[-3:] else None
                line, lost[text] = case.row(text % share, case.context(), asked)
                yield line
            yield f"| better than the first by | | | {lost[UNIFORM_L1] - lost[FREE[-3]]:.1f} | | |"


def criteria(_: argparse.Namespace) -> Iterator[str]:
    """Each criterion on ResNet-20, in equal shares, with and without repair."""
    case = Case(RESNET, READY, 1000)
    yield f"`{RESNET}` with its batch norms: top-1 {case.top1:.2f}\n\n{HEAD}"
    for name in CRITERIA:
        for repair in ("none", "layerwise"):
            text = f"prune-channels{{macs=0.8 criterion={name} across=uniform repair={repair} multiple=1}}"
            yield case.row(text, case.context())[0]


def distill(asked: argparse.Namespace) -> Iterator[str]:
    """With training."""
    for name, shares in ((RESNET, ("0.5",)), (VGG, ("0.25",))):
        case = Case(name, READY, 10_000)
        yield f"\n`{name}`: top-1 {case.top1:.2f}\n\n{HEAD}"
        pairs = ",".join(f'"{tensor}={tensor}"' for tensor in PAIRS[name])
        for share in shares:
            lost = []
            for seed in asked.seeds:
                text = DISTILL % (share, seed, asked.loss, f" pairs={pairs}" if pairs else "")
                line, points = case.row(text, case.context(train=10_000))
                lost.append(points)
                yield line
            most, mean = ASKED[name, share, "distill"], float(np.mean(lost))
            yield f"| mean | | | {mean:.2f} | | at most {most:g}: {'met' if mean <= most else 'NOT met'} |"


def trim(asked: argparse.Namespace) -> Iterator[str]:
    """Twice as fast: predicted, and measured in turns."""
    yield (
        "| network | asked | predicted | measured | channels left of convolutions | multiply-accumulates left "
        "| top-1 before | after | minutes | |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in (MOBILENET, SQUEEZENET):
        case = Case(name, "exact", 100)
        ctx = case.context(asked.target, 100)
        began = time.perf_counter()
        model = case.pruned("trim{speedup=2}", ctx)
        minutes = (time.perf_counter() - began) / 60
        assert ctx.target is not None
        before, after = (
            CostModel(ctx.target).estimate(_annotated(m)).latency_ms for m in (to_proto(case.graph), model)
        )
        ((key, array),) = case.feeds.items()
        found = compare(Session(to_proto(case.graph)), Session(model), {key: array[:1]}, seconds=20)
        measured = 1 / found.ratio
        widths = sorted({int(n.inputs[1].shape[0]) for n in from_proto(model).nodes if n.op == "Conv"})
        yield (
            f"| `{name}` | 2.0 | {before / after:.2f} | {measured:.2f} | {' '.join(map(str, widths))} "
            f"| {case.left(model):.2f} | {case.top1:.1f} | {case.score(model):.1f} | {minutes:.1f} "
            f"| at least 1.8: {'met' if measured >= 1.8 else 'NOT met'} |"
        )


def table(_: argparse.Namespace) -> Iterator[str]:
    """How long measuring sensitivities takes, and again from what was kept."""
    case = Case(RESNET, "exact", 1000)
    data = case.context().calibration
    assert data is not None
    pass_ = Pipeline.parse('prune-channels{shares="*=0" repair=local}').passes[0]
    shares = ("0.1", "0.25", "0.5", "0.75", "0.9")
    with tempfile.TemporaryDirectory() as folder:
        for what in ("measured", "again, from the cache"):
            began = time.perf_counter()
            found = survey(case.graph, pass_, shares, data, images=500, cache=Path(folder))
            seconds = time.perf_counter() - began
            layers = {entry.layer for entry in found}
            met = "" if what != "measured" else f"; under 120: {'met' if seconds < 120 else 'NOT met'}"
            yield (
                f"- {what}: {len(layers)} layers in {len(found.found.units)} groups x {len(shares)} shares, judged on "
                f"{found.images} images, in {seconds:.0f} s{met}"
            )


def beyond(_: argparse.Namespace) -> Iterator[str]:
    """What is said of requests that nothing can meet."""
    case = Case(RESNET, "exact", 64)
    for text in ("trim{speedup=100}", "prune-channels{ratio=1}", "prune-channels{macs=0.001}"):
        try:
            case.pruned(text, case.context(images=64))
            yield f"- `{text}`: NOT met: nothing was said"
        except lpcc.LpccError as error:
            yield f"- `{text}`: exit code {error.exit_code}: {error}"


def total(graph: Any) -> int:
    """Multiply-accumulates of an annotated graph."""
    return sum(macs(graph, bind(graph)).values())


def _annotated(model: onnx.ModelProto) -> Any:
    graph = from_proto(model)
    annotate(graph)
    return graph


if __name__ == "__main__":
    sys.exit(main())
