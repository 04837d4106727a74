from __future__ import annotations

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.quality import Classes, class_outputs, compare
from lpcc.testing.golden import read_model

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'
WEIGHTS = "<float[8,5] w5, float[8,4] w4, float[5] b5, float[4] b4, float[5,8,1,1] k5, float[3,8,1,1] k3, float[4] up>"


def model(text: str):
    inputs, _, body = text.partition("|")
    return read_model(f"{HEAD}g ({inputs.split('=>')[0]}) => ({inputs.split('=>')[1]})\n{WEIGHTS}\n{{ {body} }}")


ROWS, MAPS = "float[N,8] x", "float[N,8,6,6] x"
LAST = "y = Transpose<perm=[0,2,3,1]>(b)"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{ROWS} => float[N,5] y | y = Gemm(x, w5, b5)", {"y": 1}),
        (f"{ROWS} => float[N,5] y | a = MatMul(x, w5) y = Add(a, b5)", {"y": 1}),
        (f"{ROWS} => float[N,4] y | y = Gemm(x, w4, b4)", {}),
        (f"{ROWS} => float[N,4] y | a = Gemm(x, w4, b4) y = Softmax(a)", {"y": 1}),
        (
            f"{ROWS} => float[N,5] s, float[N,5] c | a = Gemm(x, w5, b5) s = Softmax(a) c = MatMul(x, w5)",
            {"s": 1},
        ),
        (f"{ROWS} => float[N,5] y | a = Gemm(x, w5, b5) y = Exp(a)", {}),
        (f"{ROWS} => float[N,10] y | a = Gemm(x, w5, b5) b = MatMul(x, w5) y = Concat<axis=1>(a, b)", {}),
        (f"{ROWS} => int64[N,1] y | a = Gemm(x, w5, b5) y = ArgMax<axis=1>(a)", {"y": None}),
        (f"{MAPS} => float[N,5,1,1] y | a = Conv(x, k5) b = Relu(a) y = GlobalAveragePool(b)", {"y": 1}),
        (f"{MAPS} => float[N,5,6,6] y | y = Conv(x, k5)", {}),
        (f"{MAPS} => float[N,5,6,6] y | a = Conv(x, k5) y = Softmax<axis=1>(a)", {"y": 1}),
        (f'{MAPS} => float[N,5,12,12] y | a = Conv(x, k5) y = Resize<mode="linear">(a, , up)', {"y": 1}),
        (f'{MAPS} => float[N,3,12,12] y | a = Conv(x, k3) y = Resize<mode="linear">(a, , up)', {}),
        (
            f'{MAPS} => float[N,12,12,5] y | a = Conv(x, k5) b = Resize<mode="linear">(a, , up) {LAST}',
            {"y": 3},
        ),
        (
            f"{MAPS} => float[N,6,6,5] y | a = Conv(x, k5) b = Softmax<axis=1>(a) y = Transpose<perm=[0,2,3,1]>(b)",
            {"y": 3},
        ),
        ("float[N,9,8] x => float[N,9,5] y | a = MatMul(x, w5) y = Softmax<axis=2>(a)", {}),
        ("float[N,9,8] x => float[N,9,4] y | y = MatMul(x, w4)", {}),
    ],
)
def test_which_outputs_are_about_classes(text, found):
    assert {name: classes.axis for name, classes in class_outputs(model(text)).items()} == found


ZOO = {
    "cifar10_resnet20_jpegft": [1],
    "mlperf_resnet8_cifar10": [1],
    "fashion_mnist_vgg": [1],
    "mobilenetv2_imagenet": [1],
    "squeezenet1_1_imagenet": [1],
    "ppocr_mobile_v2_cls": [1],
    "deeplabv3_mnv2_dm05_person": [1],
    "fastestdet_coco": [],
    "ultraface_rfb320": [],
}


@pytest.mark.parametrize("name", ZOO)
def test_real_networks(zoo, name):
    from onnx import load

    assert [classes.axis for classes in class_outputs(load(zoo.model(name))).values()] == ZOO[name]


def test_choices():
    scores = np.array([[0.1, 0.7, 0.2], [np.nan, 1, 0]])
    assert Classes(1).choice(scores).tolist() == [1, -1]
    maps = np.zeros((2, 3, 2, 2))
    maps[0, 2] = maps[1, 1, 0] = 1
    assert Classes(1).choice(maps).tolist() == [2, 2, 2, 2, 1, 1, 0, 0]
    assert Classes(None).choice(np.array([[3], [4]])).tolist() == [3, 4]
    assert Classes(1).choice(np.zeros((4, 1))) is None


def test_pixels_are_counted():
    def maps(bias):
        text = f"{MAPS} => float[N,5,6,6] y | a = Conv(x, k5) c = Constant<value_floats=[{bias}]>() b = Mul(a, c)"
        return model(f"{text} y = Softmax<axis=1>(b)")

    data = Dataset.from_arrays({"x": np.random.default_rng(0).normal(size=(2, 8, 6, 6)).astype(np.float32)})
    assert compare(maps("1.0"), maps("2.0"), data).agreements == {"y": 100.0}
    assert compare(maps("1.0"), maps("-1.0"), data).agreements == {"y": 0.0}


def test_margins_are_those_of_probabilities_or_of_scores_as_their_logarithms() -> None:
    rows = np.array([[0.7, 0.1, 0.2], [0.3, 0.4, 0.3]], np.float32)
    for scores in (rows, np.log(rows) + 5):
        np.testing.assert_allclose(Classes(1).margins(scores), [0.5, 0.1], atol=1e-5)
    maps = np.moveaxis(rows.reshape(1, 1, 2, 3), -1, 1)
    np.testing.assert_allclose(Classes(1).margins(maps), [0.5, 0.1], atol=1e-5)


def test_margins_where_there_is_little_to_tell() -> None:
    odd = np.array([[1.0, 1.0], [np.nan, 0.0], [np.inf, np.inf]], np.float32)
    assert Classes(1).margins(odd).tolist() == [0.001, 1.0, 1.0]
    assert Classes(None).margins(np.array([[3], [1]])).tolist() == [1.0, 1.0]
