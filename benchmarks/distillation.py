"""What training brings back: ResNet-20 with half of its channels by each loss, and with weights of 4 bits.

    python benchmarks/distillation.py [--parts losses best bits] [--losses kd ...] [--within] [--epochs 10]

The network is the zoo's ResNet-20 for CIFAR-10 (`cifar10_resnet20_jpegft`). Part `losses`: half of its channels, those
with the smaller filters, are gone (`benchmarks/halved.py`), nothing else was done; the whole network is the teacher,
the 10,000 training images have no labels, except for the row `hard`, which has nothing else. Part `best`: the same by
the recipe that does best, with channels of all layers and of those within blocks halved. Part `bits`: weights of 4
bits and activations of 8, by `exact,quantize{weight-bits=4},distill{...}` of `lpcc.optimize`. Top-1 is on the 5,000
test images, in onnxruntime. A tenth of the training images is held out, and tells the best epoch: test images choose
nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import zoo
from halved import halved

import lpcc
from lpcc.runtime import Session
from lpcc.train.recipe import Recipe

Array = np.ndarray[Any, Any]
MODEL = "cifar10_resnet20_jpegft"
OUTPUTS = ("kd", "logits", "labels", "outputs", "hard")
HIDDEN = ("kd+hint", "kd+hint*200", "kd+features", "kd+attention", "kd+correlation", "kd+order")
"""Beside one on the outputs, as layers behind the last that they compare would not learn. `features` asks for equal
widths: without `--within` it is refused, and the table says so."""
RECIPE = {"epochs": 10, "batch": 32, "flip": True, "crop": 2}
BEST = {"optimiser": "soap", "momentum": 0.95, "learning_rate": 0.004, "average": 0.999, "holdout": 0.0}
BEST_LOSS = "kd{temperature=2}*4+hint*100"
ENDS = [f"/layer{stage}/layer{stage}.{block}/Relu_1_output_0" for stage in (1, 2, 3) for block in (0, 1, 2)]
"""What the nine residual blocks give."""
BITS = "exact,quantize{weight-bits=4},distill{epochs=3 flip=true crop=2}"
WITHIN = {"losses": 2.5, "best": 2.5, "bits": 1.0}
"""Points below the network as it was that each part is asked to stay within."""


def main() -> int:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(WITHIN), default=tuple(WITHIN))
    parser.add_argument("--losses", nargs="+", default=(*OUTPUTS, *HIDDEN))
    parser.add_argument("--within", action="store_true", help="halve channels within blocks only")
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pipeline", default=BITS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    teacher = zoo.model(MODEL)
    feeds = zoo.load().feeds
    train, labels = feeds(MODEL, "calib", asked.images)
    images, truth = feeds(MODEL, "eval")
    float_score = top1(onnx.load(teacher), images, truth)
    print(f"{MODEL}: top-1 {float_score:.2f} on {len(truth)} test images; {asked.threads} threads\n")
    best = {}
    if "losses" in asked.parts:
        print("| loss | top-1 | below the teacher | best epoch | held out | minutes |\n|---|---|---|---|---|---|")
        student = halved(str(teacher), streams=not asked.within)
        print(f"| (half of the channels gone) | {top1(student, images, truth):.2f} | | | | |", flush=True)
        for loss in asked.losses:
            recipe = RECIPE | {"epochs": asked.epochs}
            row, score = learned(student, teacher, train, labels, loss, recipe, images, truth, float_score)
            print(row, flush=True)
            if loss != "hard" and score is not None:
                best["losses"] = max(score, best.get("losses", 0.0))
    if "best" in asked.parts:
        print("\n| loss | top-1 | below the teacher | best epoch | held out | minutes |\n|---|---|---|---|---|---|")
        for streams in (True, False):
            student = halved(str(teacher), streams=streams)
            print(f"| (half of the channels {'' if streams else 'within blocks '}gone) |", flush=True)
            pairs = tuple(f"{end}={end}" for end in ENDS)
            recipe = RECIPE | BEST
            row, score = learned(student, teacher, train, labels, BEST_LOSS, recipe, images, truth, float_score, pairs)
            print(row, flush=True)
            if streams and score is not None:
                best["best"] = score
    if "bits" in asked.parts:
        print("\n| pipeline | top-1 | below float | minutes |\n|---|---|---|---|")
        for line, score in in_few_bits(teacher, train, asked.pipeline, images, truth, float_score):
            print(line, flush=True)
            best["bits"] = score
    met = {part: float_score - score <= WITHIN[part] for part, score in best.items()}
    for part, holds in met.items():
        print(f"\n{part}: asked at most {WITHIN[part]:g} below, {'met' if holds else 'NOT met'}")
    return 0 if all(met.values()) else 1


def learned(
    student: onnx.ModelProto,
    teacher: Path,
    train: dict[str, Array],
    labels: Array,
    loss: str,
    recipe: dict[str, Any],
    images: dict[str, Array],
    truth: Array,
    float_score: float,
    pairs: tuple[str, ...] = (),
) -> tuple[str, float | None]:
    """A row of the table of losses, and the student's top-1."""
    began = time.perf_counter()
    hard = loss == "hard"
    try:
        found = lpcc.retrain(
            student,
            teacher=None if hard else teacher,
            train=train | ({"labels": labels} if hard else {}),
            labels=hard,
            loss=loss,
            pairs=pairs,
            recipe=Recipe(**recipe),
        )
    except lpcc.LpccError as error:
        return f"| `{loss}` | refused: {error} | | | | |", None
    score = top1(found.model, images, truth)
    history = found.learned.history
    assert history is not None
    minutes = (time.perf_counter() - began) / 60
    held = "" if history.best_metric is None else f"{history.metric} {history.best_metric:.2f}"
    return f"| `{loss}` | {score:.2f} | {float_score - score:.2f} | {history.best} | {held} | {minutes:.1f} |", score


def in_few_bits(
    teacher: Path, train: dict[str, Array], pipeline: str, images: dict[str, Array], truth: Array, float_score: float
) -> Iterator[tuple[str, float]]:
    """Rows of the table of bits: without training, and with."""
    few = {name: values[:150] for name, values in train.items()}
    for text in (pipeline.partition(",distill")[0], pipeline):
        began = time.perf_counter()
        found = lpcc.optimize(
            teacher, target="x86-avx512-vnni", pipeline=text, calib=few, train=train, min_agreement=50, min_sqnr=0
        )
        score = top1(found.model, images, truth)
        minutes = (time.perf_counter() - began) / 60
        yield f"| `{text}` | {score:.2f} | {float_score - score:.2f} | {minutes:.1f} |", score


def top1(model: onnx.ModelProto, images: dict[str, Array], truth: Array) -> float:
    """Percent of the images of which a model says the right class, in onnxruntime."""
    session = Session(model, threads=2)
    ((name, array),) = images.items()
    chosen = [
        session.run({name: array[i : i + 100]})[session.outputs[0].name].argmax(1) for i in range(0, len(array), 100)
    ]
    return 100 * float((np.concatenate(chosen) == truth).mean())


if __name__ == "__main__":
    sys.exit(main())
