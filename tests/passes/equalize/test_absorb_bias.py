from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.calibrate.channels import measure_channels
from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.passes.equalize import AbsorbBias
from lpcc.pipeline import Context
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.testing import assert_equivalent, check_golden, golden_cases


@pytest.mark.parametrize("case", golden_cases("golden/absorb-bias"), ids=lambda path: path.stem)
def test_golden(case, request):
    check_golden(case, update=bool(request.config.getoption("--update-golden")))


def _model(biases: tuple[float, ...] = (9.0, 4.0, 0.0, -1.0), *, most: float | None = None) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 3, 1, 1)) * 0.4,
        "b": np.asarray(biases),
        "v": rng.standard_normal((2, 4, 1, 1)),
        "c": rng.standard_normal(2),
    }
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    active = helper.make_node("Relu", ["a"], ["r"], name="relu")
    if most is not None:
        tensors += [numpy_helper.from_array(np.float32(v), n) for n, v in (("low", 0.0), ("high", most))]
        active = helper.make_node("Clip", ["a", "low", "high"], ["r"], name="clip")
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], name="first"),
        active,
        helper.make_node("Conv", ["r", "v", "c"], ["y"], name="second"),
    ]
    shape = ["N", 3, 8, 8]
    info = helper.make_tensor_value_info
    inputs, outputs = [info("x", TensorProto.FLOAT, shape)], [info("y", TensorProto.FLOAT, ["N", 2, 8, 8])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


_IMAGES = {"x": np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32)}


def _run(model: onnx.ModelProto, **context: Any) -> tuple[onnx.ModelProto, Any, Context]:
    graph, ctx = from_proto(model), Context(**context)
    (record,) = run_pipeline(graph, [AbsorbBias()], ctx)
    return to_proto(graph), record.changes, ctx


def test_on_the_images_nothing_changes_but_the_range():
    model = _model()
    data = Dataset.from_arrays(_IMAGES)
    after, changes, _ = _run(model, calibration=data)
    assert changes.counts == {"high bias absorbed behind Relu": 1}
    assert_equivalent(model, after, _IMAGES)
    before, lower = (measure_channels(m, ["r"], data)["r"].high for m in (model, after))
    assert lower[0] < before[0] - 3
    np.testing.assert_allclose(lower[2:], before[2:], rtol=1e-6)  # nothing to absorb in these


def test_batch_norms_will_do_without_images():
    model = _model()
    mean, std = np.asarray([9.0, 4.0, 0.0, -1.0]), np.asarray([1.0, 1.0, 1.0, 1.0])
    after, changes, ctx = _run(model, hints={"a": (mean, std)})
    assert changes
    bias = next(numpy_helper.to_array(t) for t in after.graph.initializer if t.name == "b")
    np.testing.assert_allclose(bias, [9 - 6, 4 - 1, 0, -1], atol=1e-6)
    np.testing.assert_allclose(ctx.hints["a"][0], [3, 3, 0, -1], atol=1e-9)
    expected, found = (Session(m).run(_IMAGES)["y"] for m in (model, after))
    assert np.abs(expected - found).mean() < 0.01 * np.abs(expected).mean()


@pytest.mark.parametrize(("most", "absorbed"), [(6.0, False), (100.0, True)])
def test_clip_must_be_out_of_reach(most, absorbed):
    model = _model((5.0, 0.0, 0.0, -1.0), most=most)
    after, changes, _ = _run(model, calibration=Dataset.from_arrays(_IMAGES))
    assert bool(changes) is absorbed
    assert_equivalent(model, after, _IMAGES)


def test_a_channel_that_falls_below_on_images_kept_apart_stays():
    images = _IMAGES["x"].copy()
    images[12:] -= _lowers_first_channel()[None, :, None, None]
    model = _model()
    data = Dataset.from_arrays({"x": images})
    after, changes, _ = _run(model, calibration=data)
    assert changes  # of channel 1
    assert_equivalent(model, after, {"x": images})
    bias = next(numpy_helper.to_array(t) for t in after.graph.initializer if t.name == "b")
    assert bias[0] == 9
    assert bias[1] < 4


def _lowers_first_channel() -> np.ndarray:
    """What added to each pixel raises channel 0 by 8 and leaves channel 1 as it is."""
    weights = next(numpy_helper.to_array(t) for t in _model().graph.initializer if t.name == "w")
    return np.linalg.lstsq(weights[:2, :, 0, 0], np.asarray([8.0, 0.0]), rcond=None)[0].astype(np.float32)


def test_biases_that_do_not_fit_their_type_leave_both_layers_alone():
    """The layer behind would get a bias beyond float16; that is known before anything is changed."""
    model = _model((9.0, 9.0, 9.0, 9.0))
    graph = from_proto(model)
    for tensor, value in (("v", 3e4), ("c", 6e4)):
        constant = graph.tensors()[tensor]
        constant.values = np.full(constant.shape, value)
    for constant in (t for t in graph.tensors().values() if hasattr(t, "values")):
        constant.values = constant.values.astype(np.float16)
    for name in ("x", "a", "r", "y"):
        graph.tensors()[name].dtype = np.dtype(np.float16)
    before = to_proto(graph)
    ctx = Context(hints={"a": (np.full(4, 9.0), np.ones(4))})
    (record,) = run_pipeline(graph, [AbsorbBias()], ctx)
    assert not record.changes
    assert [r.reason for r in record.changes.refused] == ["the bias of Conv `second` would not fit float16"]
    assert [*to_proto(graph).graph.initializer] == [*before.graph.initializer]
    np.testing.assert_array_equal(ctx.hints["a"][0], np.full(4, 9.0))
