from __future__ import annotations

import csv
from math import prod
from pathlib import Path

import onnx
import pytest

from lpcc.targets.fit.networks import stm32

OTHER = "SSD Mobilenet v1 0.25"
"""ST's table has a fifth less weights than the script gives."""


def stored_kib(model: onnx.ModelProto) -> float:
    """Size of the weights in int8, of biases in int32."""
    return sum(prod(t.dims) * (1 if len(t.dims) > 1 else 4) for t in model.graph.initializer) / 1024


def test_sizes_of_weights_are_those_that_st_publishes(truth: Path) -> None:
    compared = 0
    with (truth / "stm32_memory.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            model = stm32.build(row["model"], row["res"])
            if model is None or row["format"] != "Int8" or row["model"] == OTHER:
                continue
            compared += 1
            assert stored_kib(model) == pytest.approx(float(row["weights_kib"]), rel=0.025), row["model"]
    assert compared >= 10


@pytest.mark.parametrize(
    ("name", "resolution", "shape"),
    [
        ("MobileNet v1 0.25", "96x96x1", [1, 1, 96, 96]),
        ("MobileNet v2 0.35 ImageNet", "224x224x3", [1, 3, 224, 224]),
        ("MobileNet v2 0.35 fft food-101", "128x128x3", [1, 3, 128, 128]),
        ("Yamnet 256", "64x96x1", [1, 1, 64, 96]),
        ("IGN wl 24", "24 x 3 x 1", [1, 1, 24, 3]),
        ("MiniResNet 2stacks", "64x50x1", [1, 1, 64, 50]),
        ("SSD Mobilenet v1 0.25", "256x256x3", [1, 3, 256, 256]),
    ],
)
def test_names_of_the_tables(name: str, resolution: str, shape: list[int]) -> None:
    model = stm32.build(name, resolution)
    assert model is not None
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == shape


def test_a_name_that_is_not_known() -> None:
    assert stm32.build("ST ResNet 8 Hybrid v1", "32x32x3") is None


def test_classes_follow_the_data_set() -> None:
    model = stm32.build("MobileNet v2 0.35 ImageNet", "224x224x3")
    assert model is not None
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 1000
