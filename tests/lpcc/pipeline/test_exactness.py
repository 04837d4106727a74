"""The check after the exact passes: what rounding explains is equal, what it does not is a bug."""

from __future__ import annotations

import numpy as np
import pytest

import lpcc
from lpcc.data import Dataset
from lpcc.equality import TOLERANCE, difference
from lpcc.errors import ModelError, PassError
from lpcc.graph import from_proto
from lpcc.pipeline.exactness import check_exact
from lpcc.pipeline.variant import Variant
from lpcc.runtime import Session
from lpcc.target import Target
from lpcc.testing.golden import read_model

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
HALF = HEAD + "g (float16[N,64] x) => (float16[N,64] y) <float16[64,64] w> {{ a = MatMul(x, w)  y = {} }}"
SINGLE = HALF.replace("float16", "float")
HARD_SWISH = (
    HEAD
    + """
g (float16[N,64] x) => (float16[N,64] y)
{
    t = Constant<value_float = 3.0>()  three = Cast<to = 10>(t)
    z = Constant<value_float = 0.0>()  zero = Cast<to = 10>(z)
    s = Constant<value_float = 6.0>()  six = Cast<to = 10>(s)
    a = Add(x, three)  b = Clip(a, zero, six)  c = Mul(x, b)  y = Div(c, six)
}
"""
)


def variant(text: str) -> Variant:
    return Variant(from_proto(read_model(text)), Target.load("arm-cortex-a"))


def check(before: str, after: str, x: np.ndarray) -> str | None:
    original = variant(before)
    return check_exact(original, variant(after), Session(original.model, optimise=False), Dataset.from_arrays({"x": x}))


def normal(dtype: type) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 64)).astype(dtype)


def test_the_rounding_of_float16_is_no_change() -> None:
    result = lpcc.optimize(read_model(HARD_SWISH), target="arm-cortex-a", pipeline="exact")
    assert [node.op_type for node in result.model.graph.node] == ["HardSwish"]
    before, after = (Session(model, optimise=False) for model in (read_model(HARD_SWISH), result.model))
    assert difference(before, after, {"x": normal(np.float16)})[1] > TOLERANCE


def test_the_rounding_that_a_deep_network_multiplies_is_no_change() -> None:
    layers = "".join(
        f"  c{i} = MatMul(x{i}, w{i})  m{i} = Mul(c{i}, k{i})  t{i} = Tanh(m{i})  x{i + 1} = Add(t{i}, x{i})\n"
        for i in range(150)
    )
    weights = ", ".join(f"float[64,64] w{i}, float[64] k{i}" for i in range(150))
    model = read_model(f"{HEAD}g (float[N,64] x0) => (float[N,64] x150) <{weights}> {{\n{layers}}}")
    result = lpcc.optimize(model, target="arm-cortex-a", pipeline="exact")
    assert len(result.model.graph.node) == 450
    before, after = (Session(each, optimise=False) for each in (model, result.model))
    assert difference(before, after, {"x0": normal(np.float32)})[1] > TOLERANCE


@pytest.mark.parametrize("text", [HALF, SINGLE])
def test_a_wrong_operator_is_a_change_in_any_type(text: str) -> None:
    dtype = np.float16 if text is HALF else np.float32
    with pytest.raises(PassError, match="changed output `y`"):
        check(text.format("Relu(a)"), text.format("Abs(a)"), normal(dtype))


def test_a_model_that_states_false_shapes_is_told_so() -> None:
    """Shape inference sees that only once constants are folded."""
    text = HEAD + "g (float[N,64] x) => (float[1,N] y) { %s }"
    told = text % "s = Shape(x) o = Constant<value_ints = [1]>() t = Concat<axis = 0>(o, s) y = Reshape(x, t)"
    with pytest.raises(
        ModelError, match=r"states of an output that it is y: float32\[1, N\], and makes y: float32\[1, "
    ):
        lpcc.optimize(read_model(told), target="arm-cortex-a", pipeline="exact")
