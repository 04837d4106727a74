"""Int8 on the zoo's labelled classifiers: accuracy, kernels and speed, against onnxruntime's own static quantisation.

    python benchmarks/int8.py [--target x86-avx512-vnni] [--no-data] [MODEL ...]

For each model `lpcc optimize --target TARGET --calib --eval` with 100 to 256 calibration images and with evaluation
images, which calibration never sees, beside onnxruntime's `quantize_static` (QDQ, per channel, u8 activations, s8
weights, min-max, after `quant_pre_process`) on the same images. Accuracy and agreement with the float model in percent;
SQNR of the outputs in dB; integer and float convolutions as onnxruntime executes them; time of one image with one
thread as a share of the float model's, medians of interleaved pairs, and of lpcc's file as a share of onnxruntime's.
With --no-data lpcc gets no images at all and the table has its accuracy only.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import zoo
from rich.console import Console
from rich.table import Table

import lpcc
from lpcc.data import Dataset
from lpcc.quality import Difference, scores
from lpcc.runtime import Session, compare, count_kernels, optimised

_MODELS = (
    "cifar10_resnet20_jpegft",
    "mlperf_resnet8_cifar10",
    "fashion_mnist_vgg",
    "mobilenetv2_imagenet",
    "squeezenet1_1_imagenet",
)
_CALIBRATION, _EVALUATION = 256, 2000
_BATCH = 20


def judged(model: onnx.ModelProto, feed: str, images: np.ndarray) -> np.ndarray:
    """Class scores (N, C) of a model."""
    session = Session(model, threads=2)
    parts = []
    for start in range(0, len(images), _BATCH):
        part = scores(session.run({feed: images[start : start + _BATCH]})[session.outputs[0].name])
        assert part is not None
        parts.append(part)
    return np.concatenate(parts)


def onnxruntime_static(path: Path, feed: str, images: np.ndarray) -> onnx.ModelProto:
    """The model as onnxruntime's own tools quantise it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {feed: row[None]}

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        ready, done = Path(folder) / "ready.onnx", Path(folder) / "done.onnx"
        quant_pre_process(path, ready)
        quantize_static(
            ready,
            done,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(done)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=_MODELS)
    parser.add_argument("--target", default="x86-avx512-vnni")
    parser.add_argument("--no-data", action="store_true")
    arguments = parser.parse_args()
    module = zoo.load()
    headings = ("model", "float", "who", "top-1", "drop", "agree", "SQNR", "int/float convs", "time/float", "lpcc/ort")
    table = Table(*headings, title=f"int8 for {arguments.target}")
    for name in arguments.models:
        (feed, images), *_ = module.feeds(name, "calib", _CALIBRATION)[0].items()
        (_, unseen), *_ = (found := module.feeds(name, "eval", _EVALUATION))[0].items()
        labels = found[1]
        original = onnx.load(zoo.model(name))
        ours = lpcc.optimize(
            zoo.model(name),
            target=arguments.target,
            calib=None if arguments.no_data else Dataset.from_arrays({feed: images}),
            eval=None if arguments.no_data else Dataset.from_arrays({feed: unseen}, labels),
        )
        candidates = {"lpcc": ours.model}
        if not arguments.no_data:
            candidates["onnxruntime"] = onnxruntime_static(zoo.model(name), feed, images)
        reference = judged(original, feed, unseen)
        one = {feed: images[:1]}
        against = ""
        if len(candidates) > 1:
            race = compare(Session(candidates["onnxruntime"]), Session(ours.model), one, seconds=6.0)
            against = f"{race.ratio:.2f}"
        before = 100 * float((reference.argmax(1) == labels).mean())
        for who, model in candidates.items():
            result = judged(model, feed, unseen)
            after = 100 * float((result.argmax(1) == labels).mean())
            difference = Difference()
            difference.add(reference, result)
            kernels = count_kernels(optimised(model))
            share = compare(Session(original), Session(model), one, seconds=6.0).ratio
            table.add_row(
                name if who == "lpcc" else "",
                f"{before:.2f}" if who == "lpcc" else "",
                who,
                f"{after:.2f}",
                f"{before - after:+.2f}",
                f"{100 * float((result.argmax(1) == reference.argmax(1)).mean()):.1f}",
                f"{difference.sqnr_db:.1f}",
                f"{kernels.integer_convolutions}/{kernels.float_convolutions}",
                f"{share:.2f}",
                against if who == "lpcc" else "",
            )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
