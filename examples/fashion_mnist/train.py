"""Trains the example network on Fashion-MNIST and writes model.onnx, calib.npz and eval.npz.

    apt-get install dataset-fashion-mnist
    pip install '.[train]'
    python examples/fashion_mnist/train.py --out examples/fashion_mnist

One thread, one seed: two runs on one machine give the same bytes. Takes ten to fifteen minutes.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from pathlib import Path

import numpy as np
import onnx
import torch
from idx import CLASSES, DEBIAN, read_split
from network import network
from numpy.typing import NDArray
from onnx_writer import to_onnx
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (what everybody calls it)

PREPROCESS = tomllib.loads((Path(__file__).parent / "preprocess.toml").read_text("utf-8"))
DIVIDE, MEAN, STD = PREPROCESS["divide"], PREPROCESS["mean"], PREPROCESS["std"]
SHIFT = 2  # pixels: how far a training image is moved at most
CALIBRATION, EVALUATION = 256, 1000  # images in calib.npz and eval.npz


def preprocess(images: NDArray[np.uint8]) -> Tensor:
    """Bytes (N, 1, 28, 28) to what the network takes, of the same shape."""
    return (torch.from_numpy(images).float() / DIVIDE - MEAN) / STD


def augment(images: Tensor) -> Tensor:
    """Mirrors half of the images (N, 1, 28, 28) and shifts each by up to SHIFT pixels; what moves in is background."""
    count, _, height, width = images.shape
    padded = F.pad(images, [SHIFT] * 4, value=-MEAN / STD)
    top, left = torch.randint(2 * SHIFT + 1, (2, count, 1))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    mirrored = torch.rand(count, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    picked = padded[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    return picked[:, None]


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch: int, rate: float) -> None:
    """Trains `net` in place: SGD with Nesterov momentum, one cycle of the learning rate up to `rate` and down."""
    steps = len(images) // batch
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps, pct_start=0.2)
    net.train()
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(images))[: steps * batch].split(batch):
            x = augment(images[chosen]).to(memory_format=torch.channels_last)
            loss = F.cross_entropy(net(x), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2}  loss {total / steps:.4f}  {time.perf_counter() - start:.0f} s", flush=True)


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    net.eval()
    hits = sum((net(x).argmax(1) == y).sum().item() for x, y in zip(images.split(500), labels.split(500), strict=True))
    return 100.0 * hits / len(images)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.onnx, calib.npz and eval.npz")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    train_images, train_labels = read_split(options.data, "train")
    test_images, test_labels = read_split(options.data, "t10k")

    net = network(len(CLASSES)).to(memory_format=torch.channels_last)
    images, labels = preprocess(train_images), torch.from_numpy(train_labels)
    train(net, images, labels, options.epochs, options.batch, options.rate)
    top1 = accuracy(net, preprocess(test_images), torch.from_numpy(test_labels))
    print(f"top-1 on the {len(test_images)} test images: {top1:.2f} %")

    options.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    calibration = rng.choice(len(train_images), CALIBRATION, replace=False)
    evaluation = rng.choice(len(test_images), EVALUATION, replace=False)
    np.savez_compressed(options.out / "calib.npz", image=train_images[calibration])
    np.savez_compressed(options.out / "eval.npz", image=test_images[evaluation], labels=test_labels[evaluation])
    metadata = {"classes": ",".join(CLASSES), "test_top1": f"{top1:.2f}", "data": "Fashion-MNIST"}
    onnx.save(to_onnx(net, (1, 28, 28), len(CLASSES), metadata), options.out / "model.onnx")


if __name__ == "__main__":
    main()
