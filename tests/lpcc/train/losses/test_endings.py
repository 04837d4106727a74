"""How networks end: scores behind softmax and sigmoid, in all the ways in which exporters write them."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs
import pytest

from lpcc.graph import from_proto, load
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.losses.endings import Ending, Kind, Reading, endings, settled  # noqa: E402


def graph(body: str, outputs: str = "float[N,5] y", constants: str = "", opset: int = 17) -> gs.Graph:
    text = f"""
    <ir_version: 8, opset_import: ["": {opset}]>
    g (float[N,4] x, float[N,3,8,8] image) => ({outputs})
    <float[4,5] w, float[5,3,3,3] filter {constants}>
    {{ {body} }}
    """
    return from_proto(read_model(text))


def ended(body: str, outputs: str = "float[N,5] y", constants: str = "", opset: int = 17) -> list[tuple[Kind, Reading]]:
    found = endings(graph(body, outputs, constants, opset), None)
    return [(ending.kind, ending.student) for ending in found]


class TestScores:
    def test_are_what_a_softmax_reads(self) -> None:
        assert ended("s = MatMul(x, w) y = Softmax<axis=-1>(s)") == [(Kind.CLASSES, Reading("y", "s", -1))]

    def test_are_found_behind_what_moves_data(self) -> None:
        body = "s = MatMul(x, w) p = Softmax(s) f = Flatten(p) y = Identity(f)"
        assert ended(body) == [(Kind.CLASSES, Reading("y", "s", -1))]

    def test_are_joined_before_opset_13(self) -> None:
        assert ended("s = MatMul(x, w) y = Softmax(s)", opset=11) == [(Kind.CLASSES, Reading("y", "s", 1, joined=True))]

    def test_are_what_the_last_matrix_gives_where_there_is_no_softmax(self) -> None:
        assert ended("y = MatMul(x, w)") == [(Kind.CLASSES, Reading("y", "y", 1))]

    def test_are_what_a_sigmoid_reads(self) -> None:
        assert ended("s = MatMul(x, w) y = Sigmoid(s)") == [(Kind.FLAGS, Reading("y", "s"))]

    def test_are_what_the_chosen_class_is_chosen_from(self) -> None:
        body = "s = Conv(image, filter) y = ArgMax<axis=1>(s)"
        assert ended(body, "int64[N,1,6,6] y") == [(Kind.CLASSES, Reading("y", "s", 1))]
        body = "s = Conv(image, filter) p = Softmax<axis=1>(s) y = ArgMax<axis=1>(p)"
        assert ended(body, "int64[N,1,6,6] y") == [(Kind.CLASSES, Reading("y", "s", 1))]

    def test_of_pixels_are_maps(self) -> None:
        body = "s = Conv(image, filter) y = Resize(s, roi, scales)"
        constants = ", float[0] roi, float[4] scales = {1, 1, 2, 2}"
        assert ended(body, "float[N,5,12,12] y", constants) == [(Kind.CLASSES, Reading("y", "y", 1))]

    def test_do_not_hide_in_other_outputs(self) -> None:
        assert ended("y = Conv(image, filter)", "float[N,5,6,6] y") == [(Kind.NUMBERS, Reading("y", "y"))]
        assert ended("s = MatMul(x, w) e = Softmax(s) y = Exp(e)") == [(Kind.NUMBERS, Reading("y", "y"))]


def test_an_output_joined_from_several_has_an_ending_for_each() -> None:
    body = """
    a = Conv(image, filter) b = Conv(image, filter) c = Conv(image, filter)
    flags = Sigmoid(a) t = Transpose<perm=[0,2,3,1]>(b) p = Softmax<axis=3>(t) classes = Transpose<perm=[0,3,1,2]>(p)
    y = Concat<axis=1>(flags, c, classes)
    """
    assert ended(body, "float[N,15,6,6] y") == [
        (Kind.FLAGS, Reading("flags", "a")),
        (Kind.NUMBERS, Reading("c", "c")),
        (Kind.CLASSES, Reading("classes", "t", 3)),
    ]


def test_numbers_that_are_joined_stay_one() -> None:
    body = "a = Conv(image, filter) b = Conv(image, filter) y = Concat<axis=1>(a, b)"
    assert ended(body, "float[N,10,6,6] y") == [(Kind.NUMBERS, Reading("y", "y"))]


class TestOfTwo:
    plain = "y = MatMul(x, w)"
    soft = "scores = MatMul(x, w) y = Softmax(scores)"

    def test_each_has_its_own_names(self) -> None:
        other = self.soft.replace("scores", "logits")
        (found,) = endings(graph(self.soft), graph(other))
        assert found == Ending("y", Kind.CLASSES, Reading("y", "scores", -1), Reading("y", "logits", -1))

    @pytest.mark.parametrize("turned", [False, True])
    def test_scores_on_one_side_are_scores_on_the_other(self, turned: bool) -> None:
        sides = (self.plain, self.soft)[:: -1 if turned else 1]
        (found,) = endings(*(graph(side) for side in sides))
        readings = (found.student, found.teacher)[:: -1 if turned else 1]
        assert found.kind is Kind.CLASSES
        assert readings == (Reading("y", "y", 1), Reading("y", "scores", -1))

    def test_that_end_otherwise_are_compared_as_numbers(self) -> None:
        (found,) = endings(graph("s = MatMul(x, w) y = Sigmoid(s)"), graph(self.soft))
        assert found == Ending("y", Kind.NUMBERS, Reading("y", "y"), Reading("y", "y"))


class TestSettled:
    def test_probabilities_are_told_by_their_values(self) -> None:
        end = (Ending("y", Kind.CLASSES, Reading("y", "y"), Reading("y", "y")),)
        scores = torch.randn(4, 5)
        (found,) = settled(end, {"y": scores}, {"y": scores.softmax(1)})
        assert not found.student.probabilities
        assert found.of_teacher.probabilities

    def test_scores_of_different_number_are_left_for_the_outputs(self) -> None:
        end = (Ending("y", Kind.CLASSES, Reading("y", "s"), Reading("y", "t")),)
        values = {"y": torch.rand(4, 5), "s": torch.rand(4, 5), "t": torch.rand(8, 5)}
        (found,) = settled(end, values, values)
        assert found.kind is Kind.NUMBERS

    def test_whole_numbers_are_not_followed(self) -> None:
        end = (Ending("y", Kind.NUMBERS, Reading("y", "y"), Reading("y", "y")),)
        values = {"y": torch.arange(4)}
        assert settled(end, values, values) == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10_resnet20_jpegft", [("logits", Kind.CLASSES, "logits")]),
        ("mlperf_resnet8_cifar10", [("probs", Kind.CLASSES, "dense")]),
        ("ppocr_mobile_v2_cls", [("save_infer_model/scale_0.tmp_1", Kind.CLASSES, "linear_1.tmp_1")]),
        ("squeezenet1_1_imagenet", [("logits", Kind.CLASSES, "logits")]),
        ("deeplabv3_mnv2_dm05_person", [("transpose:0", Kind.CLASSES, "transpose:0")]),
        ("ultraface_rfb320", [("scores", Kind.CLASSES, "459"), ("boxes", Kind.NUMBERS, "boxes")]),
        (
            "fastestdet_coco",
            [
                ("758", Kind.FLAGS, "onnx::Sigmoid_954"),
                ("758", Kind.NUMBERS, "onnx::Concat_960"),
                ("758", Kind.CLASSES, "onnx::Softmax_755"),
            ],
        ),
    ],
)
def test_the_zoo(zoo: Any, name: str, expected: list[tuple[str, Kind, str]]) -> None:
    graph = load(zoo.model(name))
    found = [(ending.output, ending.kind, ending.student.scores) for ending in endings(graph, graph)]
    assert found == expected
