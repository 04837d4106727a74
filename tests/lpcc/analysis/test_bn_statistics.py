from __future__ import annotations

import pytest

from lpcc.analysis.bn_statistics import bn_statistics
from lpcc.graph import from_proto
from lpcc.testing.golden import read_model

NORM = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2,4,4] x) => (float[N,2,4,4] y)
<float[2] gamma = {-2, 3}, float[2] beta = {1, 0}, float[2] mean = {5, 5}, float[2] var = {1, 1}>
{ y = BatchNormalization(x, gamma, beta, mean, var) }
"""


@pytest.mark.parametrize("listed", [False, True])
def test_the_output_has_mean_beta_and_deviation_gamma(listed: bool) -> None:
    model = read_model(NORM)
    if listed:  # as exporters of IR 3 did with all weights
        for tensor in model.graph.initializer:
            info = model.graph.input.add(name=tensor.name)
            info.type.tensor_type.elem_type = tensor.data_type
            info.type.tensor_type.shape.dim.add(dim_value=2)
    mean, deviation = bn_statistics(from_proto(model))["y"]
    assert mean.tolist() == [1, 0]
    assert deviation.tolist() == [2, 3]


def test_parameters_that_are_computed_say_nothing() -> None:
    text = NORM.replace("{ y =", "{ g = Abs(gamma)  y =").replace("(x, gamma", "(x, g")
    assert bn_statistics(from_proto(read_model(text))) == {}
