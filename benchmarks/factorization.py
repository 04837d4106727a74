"""What factorising layers costs and gains: four methods at equal work, goals, real time, speed, the order of passes.

    python benchmarks/factorization.py [--parts methods goals real speed order]

Part `methods`: a VGG (Fashion-MNIST) of the zoo with its four large convolutions at equal multiply-accumulates by each
method, fitted to their weights, to their outputs, and in order; then the same network with ranks by the knapsack.
`goals`: what may be lost at half of the work without training, and at a third with 10 epochs of distillation on 10,000
unlabelled training images; ResNet-20 (CIFAR-10) beside it. `real`: a network of VGG-16's shapes with random weights at
224 x 224, measured in turns with onnxruntime, one thread. `speed`: seconds and memory for all layers of ResNet-50's
shapes. `order`: passes combined, at equal work. 1,000 calibration images, top-1 on the zoo's 10,000 (Fashion-MNIST)
and 5,000 (CIFAR-10) test images; these choose nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from pruning import HEAD, READY, RESNET, VGG, Case

import lpcc
from lpcc import edit
from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes.factorize import Factorize
from lpcc.passes.factorize.allotment import Layers
from lpcc.passes.factorize.fitting import Cut
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods import METHODS
from lpcc.passes.prune.multiples import channel_multiple
from lpcc.passes.reconstruct import Reading, Sums, sums_of
from lpcc.pipeline import Changes, Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.runtime.timing import turns
from lpcc.target import Target
from lpcc.targets.fit.networks.builder import Builder, Tensor

TARGET = "x86-avx512-vnni"
METHOD = ("bmd", "cpd", "svd", "tucker2")
SHARES = (0.5, 0.34, 0.25)
"""Of the multiply-accumulates, that are left."""
FITS = {"weights": "fit=weights", "outputs": "repair=none", "in order": "repair=layerwise"}
SMALL = 0.1
"""Share of the most expensive layer's work; layers with less stay whole where methods are compared."""
DISTILL = "distill{epochs=10 batch=32 learning-rate=0.002 average=0.999 flip=true crop=2 loss=%s}"
GOALS: tuple[tuple[str, str, str, float | None], ...] = (
    (VGG, "exact", "factorize{method=bmd macs=0.5}", 1.0),
    (VGG, "exact", "factorize{method=bmd macs=0.5 multiple=1}", 1.0),
    (VGG, "exact", "factorize{macs=0.34}", None),
    (RESNET, "exact", "factorize{macs=0.7}", None),
    (RESNET, "exact", "factorize{macs=0.7 multiple=1}", None),
    (RESNET, "exact", "factorize{macs=0.5}", None),
    (RESNET, "exact", "factorize{macs=0.5 multiple=1}", None),
    (VGG, READY, "factorize{method=bmd macs=0.34},fold-bn", None),
    (VGG, READY, f"factorize{{method=bmd macs=0.34}},{DISTILL % 'kd+hint*100'},fold-bn", 0.7),
    (VGG, READY, f"factorize{{method=bmd macs=0.34}},{DISTILL % 'kd'},fold-bn", 0.7),
    (VGG, READY, "factorize{method=bmd macs=0.2},fold-bn", None),
    (VGG, READY, f"factorize{{method=bmd macs=0.2}},{DISTILL % 'kd+hint*100'},fold-bn", None),
    (VGG, READY, f"factorize{{method=bmd macs=0.2}},{DISTILL % 'kd'},fold-bn", None),
)
"""A network of the zoo, what comes before, passes, and the points of top-1 that may be lost."""
ORDERS: dict[str, tuple[str, ...]] = {
    RESNET: (
        "factorize{macs=0.5}",
        "prune-channels{macs=0.5}",
        "factorize{macs=0.707},prune-channels{macs=0.707}",
        "prune-channels{macs=0.707},factorize{macs=0.707}",
    ),
    VGG: (
        "factorize{macs=0.25}",
        "prune-channels{macs=0.25}",
        "factorize{macs=0.5},prune-channels{macs=0.5}",
        "prune-channels{macs=0.5},factorize{macs=0.5}",
        "quantize",
        "factorize{macs=0.25 bn=false},quantize",
        "prune-channels{macs=0.25},quantize",
        "prune-channels{macs=0.5},factorize{macs=0.5 bn=false},quantize",
        "quantize,factorize{macs=0.25 bn=false}",
    ),
}
"""Passes behind `exact`, to compare."""
REAL = tuple(
    f"factorize{{macs=0.5{goal} fit=weights bn=false}}" for goal in ("", " speedup=2", " speedup=2.1", " speedup=2.2")
)
"""Beside the multiply-accumulates alone: as fast as asked, by prediction, and with 5 and 10 % to spare."""
SPEED = {"bmd": (60.0, 2.0), "cpd": (900.0, math.inf)}
"""Seconds, and GB of memory, for all layers of a network of ResNet-50's shapes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables asked for; 1 where a number that was asked for is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"methods": methods, "goals": goals, "real": real, "speed": speed, "order": order}
    parser.add_argument("--parts", nargs="+", choices=parts, default=tuple(parts))
    parser.add_argument("--target", default=TARGET, help="of `real`; of all others it is %(default)s")
    parser.add_argument("--seconds", type=float, default=20.0, help="for which networks are timed in turns")
    asked = parser.parse_args(arguments)
    missed = 0
    for part in asked.parts:
        print(f"\n## {part}\n")
        for line in parts[part](asked):
            print(line, flush=True)
            missed += "NOT met" in line
    return 1 if missed else 0


def methods(asked: argparse.Namespace) -> Iterator[str]:
    """The four methods at equal work: of each layer, then of the network."""
    case = Case(VGG, "exact", 1000)
    yield from by_layer(case, asked.seconds)
    yield from by_network(case, asked.seconds)


def by_layer(case: Case, seconds: float) -> Iterator[str]:
    """Each large layer at the same multiply-accumulates by each method."""
    small = small_layers(case.graph)
    fixed = sum(count for name, count in work(case.graph).items() if name in small) / case.macs
    yield (
        f"`{case.name}`, top-1 {case.top1:.2f}: each large convolution at the same multiply-accumulates, others whole"
        "\n\n| multiply-accumulates left | method | error of weights | of outputs | top-1 by weights | by outputs "
        "| in order | time |\n|---|---|---|---|---|---|---|---|"
    )
    for share in SHARES:
        ratio = (1 - share) / (1 - fixed)
        rows, models = [], []
        for method in METHOD:
            cuts = equal_ranks(
                case, f"factorize{{method={method} ratio={ratio:.4f} multiple=1 skip={','.join(small)}}}"
            )
            given = f"method={method} ranks={','.join(cuts)} bn=false"
            made = [applied(case, f"factorize{{{given} {fit}}}", None)[0] for fit in FITS.values()]
            lost = [predicted(case, f"factorize{{{given} {fit}}}") for fit in list(FITS.values())[:2]]
            models.append(made[-1])
            rows.append(
                [f"{case.left(made[-1]):.3f}", f"`{method}`", *(f"{each:.3f}" for each in lost)]
                + [f"{case.score(model):.2f}" for model in made]
            )
        times = relative_times(case, models, seconds)
        for row, spent in zip(rows, times, strict=True):
            yield f"| {' | '.join(row)} | {spent:.2f} |"


def by_network(case: Case, seconds: float) -> Iterator[str]:
    """The network at the same multiply-accumulates by each method, ranks as the knapsack says."""
    yield (
        f"\nranks by the knapsack on `{TARGET}`, in order\n\n| passes | multiply-accumulates left | top-1 "
        "| points lost | predicted time | measured time | layers cut |\n|---|---|---|---|---|---|---|"
    )
    for share in SHARES:
        made_by: dict[str, tuple[onnx.ModelProto, Changes]] = {}
        for method in METHOD:
            text = f"factorize{{method={method} macs={share:g} bn=false}}"
            try:
                made_by[text] = applied(case, text, TARGET)
            except lpcc.LpccError as error:
                yield f"| `{text}` | {error} | | | | | |"
        times = relative_times(case, [model for model, _ in made_by.values()], seconds)
        for (text, (model, changes)), spent in zip(made_by.items(), times, strict=True):
            score, cut = case.score(model), sum(n for what, n in changes.counts.items() if "by" in what)
            yield (
                f"| `{text}` | {case.left(model):.3f} | {score:.2f} | {case.top1 - score:.2f} "
                f"| {expected(model, TARGET) / expected(to_proto(case.graph), TARGET):.2f} | {spent:.2f} | {cut} |"
            )


def goals(_: argparse.Namespace) -> Iterator[str]:
    """What may be lost."""
    cases: dict[tuple[str, str], Case] = {}
    yield HEAD
    for name, ready, passes, most in GOALS:
        train = 10_000 if "distill" in passes else 0
        if (name, ready) not in cases:
            cases[name, ready] = Case(name, ready, 10_000 if ready == READY else 1000)
        case = cases[name, ready]
        yield judged(case, passes, case.context(train=train), most)


def judged(case: Case, passes: str, ctx: Context, most: float | None) -> str:
    """A line of a table: what is left, what is lost, and, where training changed nothing, that it did not."""
    graph, began = annotated(to_proto(case.graph)), time.perf_counter()
    records = run_pipeline(graph, Pipeline.parse(passes), ctx)
    minutes = (time.perf_counter() - began) / 60
    model = to_proto(graph)
    score = case.score(model)
    lost = case.top1 - score
    said = [each.reason for run in records if run.item.name == "distill" for each in run.changes.refused]
    if most is not None:
        said.insert(0, f"at most {most:g}: {'met' if lost <= most else 'NOT met'}")
    return (
        f"| {case.name} {case.top1:.2f}: `{passes}` | {case.left(model):.3f} | {score:.2f} | {lost:.2f} "
        f"| {minutes:.1f} | {'; '.join(said)} |"
    )


def real(asked: argparse.Namespace) -> Iterator[str]:
    """Half of the work of VGG-16's shapes, measured."""
    graph, target = annotated(vgg16()), Target.load(asked.target)
    before, step = to_proto(graph), channel_multiple(target)
    yield f"VGG-16's shapes, random weights, 224 x 224, `{asked.target}`, channels in multiples of {step}"
    for text in REAL:
        changed = annotated(before)
        began = time.perf_counter()
        changes = Pipeline.parse(text).passes[0].run(changed, Context(target=target))
        seconds = time.perf_counter() - began
        annotate(changed)
        after = to_proto(changed)
        image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
        first, second = turns([Session(before), Session(after)], {"input": image}, seconds=asked.seconds)
        between = between_layers(graph, changed)
        uneven = sorted({channels for channels in between if channels % step})
        lead = expected(before, asked.target) / expected(after, asked.target)
        share = sum(work(changed).values()) / sum(work(graph).values())
        gain = median(first) / median(second)
        fast = "" if "speedup" not in text else f"; at least 2: {'met' if gain >= 2 else 'NOT met'}"
        yield (
            f"\n- `{text}` in {seconds:.0f} s: {share:.3f} of the multiply-accumulates, predicted {lead:.2f} times as "
            f"fast, measured {gain:.3f} times ({median(first):.0f} -> {median(second):.0f} ms){fast}"
        )
        yield (
            f"- channels between layers: {' '.join(map(str, sorted(set(between))))}; all multiples of {step}: "
            f"{'met' if not uneven else f'NOT met: {uneven}'}"
        )
        layers = {edit.label(node) for node in graph.nodes if edit.op(node) in ("Conv", "Gemm")}
        yield from (f"- `{each.node}` left alone: {each.reason}" for each in changes.refused if each.node in layers)


def speed(_: argparse.Namespace) -> Iterator[str]:
    """Seconds and memory for ResNet-50's shapes."""
    for method, (most, gigabytes) in SPEED.items():
        text = f"factorize{{method={method} ratio=0.5 fit=weights}}"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            seconds, peak, cut = pool.submit(taken, text).result()
        met = "met" if seconds <= most and peak <= gigabytes else "NOT met"
        within = f"under {most:g} s" + (f" and {gigabytes:g} GB" if math.isfinite(gigabytes) else "")
        yield f"- `{text}`: {cut} layers in {seconds:.0f} s, at most {peak:.2f} GB; {within}: {met}"


def order(_: argparse.Namespace) -> Iterator[str]:
    """What passes make of a network in one order and in another."""
    head = ("network", "passes", "multiply-accumulates left", "predicted time", "top-1", "points lost")
    yield f"| {' | '.join(head)} |\n{'|---' * len(head)}|"
    for name, ways in ORDERS.items():
        case = Case(name, "exact", 1000)
        whole = expected(to_proto(case.graph), TARGET)
        for text in ways:
            try:
                model = case.pruned(f"{text},exact", case.context())
            except lpcc.LpccError as error:
                yield f"| `{name}` | `{text}` | {error} | | | |"
                continue
            score = case.score(model)
            yield (
                f"| `{name}` | `{text}` | {case.left(model):.3f} | {expected(model, TARGET) / whole:.2f} | {score:.2f} "
                f"| {case.top1 - score:.2f} |"
            )


def applied(case: Case, text: str, target: str | None) -> tuple[onnx.ModelProto, Changes]:
    """What one pass makes of a network, for a target or for none."""
    graph = annotated(to_proto(case.graph))
    changes = Pipeline.parse(text).passes[0].run(graph, _context(case, target))
    return to_proto(graph), changes


def equal_ranks(case: Case, text: str) -> list[str]:
    """What `factorize` without a target chooses, as values of its option `ranks`: layer by layer."""
    names = {node.outputs[0].name: edit.label(node) for node in case.graph.nodes}
    cuts, _ = _cuts(case, text)
    return [f'"{names[result]}={"x".join(map(str, cut.rank))}"' for result, cut in cuts.items()]


def predicted(case: Case, text: str) -> float:
    """The error by which plans are judged, ``1 - prod over layers of (1 - error)``, of `factorize` without a target.

    Each layer's is of what the pass fits: its weights, or what it makes of the calibration images.
    """
    cuts, sums = _cuts(case, text)
    nodes, kept = {node.outputs[0].name: node for node in case.graph.nodes}, 1.0
    for result, cut in cuts.items():
        gram = sums[result].gram.astype(np.float64) if result in sums else None
        kept *= 1 - METHODS[cut.method](Form.of(nodes[result]), gram).error(cut.rank)
    return 1 - kept


def _cuts(case: Case, text: str) -> tuple[Mapping[str, Cut], Mapping[str, Sums]]:
    """How `factorize` cuts layers, by the tensors that they make, and what these read, unless it fits to weights."""
    (asked,) = Pipeline.parse(text).passes
    assert isinstance(asked, Factorize)
    ctx = _context(case, None)
    assert ctx.calibration is not None
    forms: dict[str, Form] = {}
    for node in case.graph.nodes:
        with suppress(Declined):
            if edit.label(node) not in asked.skip:
                forms[node.outputs[0].name] = Form.of(node)
    readings = [Reading.of(node) for node in case.graph.nodes if node.outputs[0].name in forms]
    sums = {} if asked.fit == "weights" else sums_of(case.graph, readings, ctx.calibration, ctx)
    return Layers(case.graph, forms, sums, asked, ctx).allot(lambda _: 0.0).cuts, sums


def small_layers(graph: Any) -> list[str]:
    """Names of layers with little work: the first, and the dense ones."""
    counts = work(graph)
    return sorted(name for name, count in counts.items() if count < SMALL * max(counts.values()))


def work(graph: Any) -> dict[str, int]:
    """Multiply-accumulates by the names of layers."""
    counts = macs(graph, bind(graph))
    return {edit.label(node): counts[id(node)] for node in graph.nodes if counts.get(id(node))}


def expected(model: onnx.ModelProto, target: str) -> float:
    """Predicted milliseconds."""
    return CostModel(Target.load(target)).estimate(annotated(model)).latency_ms


def relative_times(case: Case, models: Sequence[onnx.ModelProto], seconds: float) -> list[float]:
    """Times of models, measured in turns, as shares of the original's; batch 1, one thread."""
    ((name, array),) = case.feeds.items()
    sessions = [Session(model) for model in (to_proto(case.graph), *models)]
    whole, *others = turns(sessions, {name: array[:1]}, seconds=seconds)
    return [median(b / a for a, b in zip(whole, spent, strict=True)) for spent in others]


def between_layers(before: Any, after: Any) -> list[int]:
    """Channels that the layers which came new into a graph make, each for the next of its own."""
    old = {edit.label(node) for node in before.nodes}
    weights = [
        (edit.op(node), edit.attr(node, "transB", 0), node.inputs[1].shape)
        for node in after.nodes
        if edit.label(node) not in old and edit.op(node) in ("Conv", "Gemm", "MatMul")
    ]
    return [int(shape[0] if op == "Conv" or turned else shape[1]) for op, turned, shape in weights]


def taken(text: str) -> tuple[float, float, int]:
    """Seconds, GB of memory at most, and layers factorised of ResNet-50's shapes; for a process of its own."""
    graph = annotated(resnet50())
    began = time.perf_counter()
    changes = Pipeline.parse(text).passes[0].run(graph, Context())
    seconds = time.perf_counter() - began
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6
    return seconds, peak * 1.024, sum(changes.counts.values())


def vgg16(width: int = 64, size: int = 224, classes: int = 1000, hidden: int = 4096) -> onnx.ModelProto:
    """VGG-16 (Simonyan and Zisserman 2014, arXiv 1409.1556), random weights."""
    net = Builder("vgg16")
    x = net.input(1, 3, size, size)
    for filters, layers in ((width, 2), (2 * width, 2), (4 * width, 3), (8 * width, 3), (8 * width, 3)):
        for _ in range(layers):
            x = net.conv(x, filters, 3, activation="relu")
        x = net.pool(x, "max", 2, 2)
    x = net.dense(net.flatten(x), hidden, "relu")
    return net.model(net.dense(net.dense(x, hidden, "relu"), classes))


def resnet50(width: int = 64, size: int = 224, classes: int = 1000) -> onnx.ModelProto:
    """ResNet-50 (He et al. 2016, arXiv 1512.03385), random weights, batch norms folded."""
    net = Builder("resnet50")
    x = net.conv(net.input(1, 3, size, size), width, 7, 2, (3, 3, 3, 3), "relu")
    x = net.pool(x, "max", 3, 2, (1, 1, 1, 1))
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            x = _bottleneck(net, x, width << stage, 2 if stage and not block else 1)
    return net.model(net.dense(net.flatten(net.global_pool(x)), classes))


def _bottleneck(net: Builder, x: Tensor, filters: int, stride: int) -> Tensor:
    y = net.conv(net.conv(x, filters, activation="relu"), filters, 3, stride, (1, 1, 1, 1), "relu")
    y = net.conv(y, 4 * filters)
    shortcut = x if stride == 1 and x.channels == 4 * filters else net.conv(x, 4 * filters, 1, stride)
    return net.add(shortcut, y, "relu")


def annotated(model: onnx.ModelProto | Path) -> Any:
    """A graph with types."""
    graph = load(model) if isinstance(model, Path) else from_proto(model)
    annotate(graph)
    return graph


def _context(case: Case, target: str | None) -> Context:
    return replace(case.context(), target=None if target is None else Target.load(target))


if __name__ == "__main__":
    sys.exit(main())
