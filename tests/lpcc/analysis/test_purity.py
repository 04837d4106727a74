from __future__ import annotations

import onnx.parser
import pytest

from lpcc.analysis.purity import is_foreign, is_pure, trains
from lpcc.graph import from_proto

IF = """y = If (c) <then_branch = t () => (float[2,2] a) {a = OP (x)},
                    else_branch = e () => (float[2,2] b) {b = Neg (x)}>"""

PURE = {
    "relu": "y = Relu (x)",
    "dropout": "y = Dropout (x)",
    "dropout, told": "y = Dropout (x, ratio, no)",
    "batch norm": "y = BatchNormalization (x, v, v, v, v)",
    "if": IF.replace("OP", "Relu"),
}

IMPURE = {
    "random": "y = RandomNormalLike (x)",
    "bernoulli": "y = Bernoulli (x)",
    "training": "y = Dropout (x, ratio, yes)",
    "perhaps training": "y = Dropout (x, ratio, c)",
    "batch norm": "y, m, w = BatchNormalization <training_mode = 1> (x, v, v, v, v)",
    "foreign": "y = other.Relu (x)",
    "inside": IF.replace("OP", "RandomNormalLike"),
}


def node(body):
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17, "other": 1]>
        g (float[2,2] x, bool c) => (float[2,2] y)
        <float ratio = {{0.5}}, bool yes = {{1}}, bool no = {{0}}, float[2] v = {{1, 1}}> {{ {body} }}""")
    return from_proto(model).nodes[0]


@pytest.mark.parametrize("name", PURE)
def test_pure(name):
    assert is_pure(node(PURE[name]), 17)


@pytest.mark.parametrize("name", IMPURE)
def test_not_pure(name):
    assert not is_pure(node(IMPURE[name]), 17)


def test_foreign():
    assert is_foreign(node("y = other.Relu (x)"))
    assert is_foreign(node(IMPURE["inside"].replace("RandomNormalLike", "other.Relu")))
    assert not is_foreign(node(IMPURE["inside"]))


def test_training_was_said_otherwise_before():
    """Up to opset 6 by an attribute; up to opset 13 a batch norm trains if it gives its statistics."""
    assert trains(node("y = Dropout (x)"), 6)
    assert not trains(node("y = Dropout <is_test = 1> (x)"), 6)
    assert trains(node("y, m, w = BatchNormalization (x, v, v, v, v)"), 9)
    assert not trains(node("y = BatchNormalization (x, v, v, v, v)"), 9)
