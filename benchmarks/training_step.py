"""Time of a training step: the graph itself, run by lpcc in torch, against the same network written in torch by hand.

    python benchmarks/training_step.py [--zoo FOLDER] [--batch 64] [--threads N] [--rounds 15]

The network is the zoo's ResNet-20 for CIFAR-10 (`cifar10_resnet20_jpegft`). Both start from the weights of the file,
and their outputs are compared before anything is timed. A step is forward, cross-entropy, backward and a step of SGD
with momentum, on one batch of noise. The two take turns; printed are the medians and their ratio, hand-written time
over lpcc's: above 1 lpcc is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Container
from itertools import pairwise
from pathlib import Path

import onnx_graphsurgeon as gs
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import nn

from lpcc.graph import load
from lpcc.train.network import Network

MODEL = "cifar10_resnet20_jpegft"
AT_LEAST = 0.9
_WARM_UP = 3
_SAME = 1e-4  # relative difference of the outputs


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut: where the size changes, of every other pixel, padded by zeros."""

    def __init__(self, channels: int, wider: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wider, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wider)
        self.conv2 = nn.Conv2d(wider, wider, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wider)
        self.stride, self.pad = stride, (wider - channels) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class ResNet20(nn.Module):
    """The network of He et al. 2016 for CIFAR-10, of depth 20, with shortcuts of option A."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16] * 4 + [32] * 3 + [64] * 3
        blocks = [Block(c, wider, 1 if c == wider else 2) for c, wider in pairwise(widths)]
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def fill(hand: ResNet20, values: dict[str, torch.Tensor], order: list[tuple[str, list[str]]]) -> None:
    """Copy the weights of the file into the modules, which come in the order of the file's nodes."""
    kinds = {"Conv": nn.Conv2d, "BatchNormalization": nn.BatchNorm2d, "Gemm": nn.Linear}
    fields = {
        "Conv": ("weight",),
        "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
        "Gemm": ("weight", "bias"),
    }
    for op, kind in kinds.items():
        modules = [module for module in hand.modules() if isinstance(module, kind)]
        nodes = [names for found, names in order if found == op]
        for module, names in zip(modules, nodes, strict=True):
            for field, name in zip(fields[op], names, strict=False):
                getattr(module, field).data.copy_(values[name])


def order(graph: gs.Graph, values: Container[str]) -> list[tuple[str, list[str]]]:
    """The operators of the file, each with the names of its weights."""
    return [(str(node.op), [t.name for t in node.inputs[1:] if t.name in values]) for node in graph.nodes]


def stepper(
    parameters: list[nn.Parameter], forward: Callable[[], torch.Tensor], labels: torch.Tensor
) -> Callable[[], float]:
    """A function that takes one training step and gives the loss."""
    optimiser = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> float:
        optimiser.zero_grad()
        loss = F.cross_entropy(forward(), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def main() -> int:
    """Compare the outputs, time both in turns, print the table; 1 where lpcc is slower than it may be."""
    parser = argparse.ArgumentParser(description="a training step of lpcc's against one written by hand")
    default = os.environ.get("LPCC_ZOO") or Path(__file__).parents[2] / "shared" / "zoo"
    parser.add_argument("--zoo", type=Path, default=Path(default), help="folder of the zoo of models")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15, help="steps of each that are timed")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    graph = load(given.zoo / "models" / f"{MODEL}.onnx")
    ours, hand = Network(graph), ResNet20()
    values = {name: torch.from_numpy(array) for name, array in ours.store().items()}
    fill(hand, values, order(graph, values))
    ours, hand = ours.to(device), hand.to(device)
    x = torch.randn(given.batch, 3, 32, 32, device=device)
    labels = torch.randint(0, 10, (given.batch,), device=device)
    with torch.no_grad():
        mine, theirs = ours({"input": x})["logits"], hand.eval()(x)
    difference = float((mine - theirs).abs().max() / theirs.abs().max())
    if difference > _SAME:
        print(f"the two networks are not the same: outputs differ by {difference:.1e}", file=sys.stderr)
        return 1
    ours.train()
    hand.train()
    steps = {
        "lpcc": stepper([*ours.weights.values(), *ours.others.values()], lambda: ours({"input": x})["logits"], labels),
        "by hand": stepper(list(hand.parameters()), lambda: hand(x), labels),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(_WARM_UP + given.rounds):
        for name in steps if turn % 2 else reversed(steps):
            start = time.perf_counter()
            steps[name]()
            if turn >= _WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratio = medians["by hand"] / medians["lpcc"]
    print(f"{MODEL}, batch {given.batch}, {device.type}, {given.threads} threads, outputs differ by {difference:.1e}")
    print(f"{'step':<12}{'median ms':>12}{'best ms':>12}{'images/s':>12}")
    for name, median in medians.items():
        print(f"{name:<12}{median:>12.1f}{min(times[name]):>12.1f}{1000 * given.batch / median:>12.0f}")
    print(f"ratio, by hand over lpcc: {ratio:.3f} (at least {AT_LEAST})")
    return 0 if ratio >= AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
