from __future__ import annotations

import math

import numpy as np
import pytest

from lpcc.analysis.groups import channel_groups
from lpcc.data import Dataset
from lpcc.graph import to_proto
from lpcc.passes.prune.curves import SHARES, _images, count_of, measured_curves, subject_of
from lpcc.passes.prune.prune_channels import PruneChannels
from lpcc.passes.prune.ranking import Ranking
from lpcc.pipeline import Context
from lpcc.runtime import TensorSpec

_RNG = np.random.default_rng(5)
BODY = """(float[N,2,5,5] x) => (float[N,3,5,5] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v) t = Relu(c) y = Conv(t, u) }"""
X = _RNG.standard_normal((40, 2, 5, 5)).astype(np.float32)


def net(network, batch="N"):
    """The second group's channels say next to nothing."""
    w, v, u = (_RNG.standard_normal(shape) for shape in ((8, 2, 1, 1), (8, 8, 1, 1), (3, 8, 1, 1)))
    v[1:] *= 1e-3
    return network(BODY.replace("[N,", f"[{batch},"), w=w, v=v, u=u)


def data_of(graph, x=X):
    return Dataset.from_arrays({"x": x}, inputs=TensorSpec.inputs_of(to_proto(graph)))


def trial():
    return PruneChannels(shares=("*=0",), criterion="l2", repair="none")


def curves(graph, ctx, cache="", images=1000):
    found = channel_groups(graph)
    ranking = Ranking.of(found, np.arange(found.count)[::-1], ())
    return measured_curves(graph, ranking, trial(), ctx, images, cache, 1)


def test_what_is_sensitive_has_the_steeper_curve(network):
    graph = net(network)
    ctx = Context(calibration=data_of(graph))
    found = curves(graph, ctx)
    assert sorted(found) == ["a", "c"]
    for curve in found.values():
        assert curve.counts == (*range(8),)
        assert curve.damages[0] == 0
        assert math.isfinite(curve.damages[-1])
    assert found["a"].damage(4) > 100 * found["c"].damage(4) > 0


def test_it_is_measured_once_and_kept_on_disk(network, tmp_path, monkeypatch):
    graph = net(network)
    found = curves(graph, Context(calibration=data_of(graph)), str(tmp_path))
    assert list(tmp_path.iterdir())
    ctx = Context(calibration=data_of(graph))
    assert curves(graph, ctx, str(tmp_path)) == found
    monkeypatch.setattr("lpcc.sensitivity.measure", None)
    assert curves(graph, ctx, str(tmp_path)) == found  # not asked again in one run


def test_no_more_images_are_used_than_asked(network):
    graph = net(network)
    few = Context(calibration=data_of(graph, X[:12]))
    assert curves(graph, Context(calibration=data_of(graph)), images=12) == curves(graph, few)


def test_without_images_nothing_is_known(network):
    assert curves(net(network), Context()) == {}


def test_shares_of_channels():
    assert [count_of(share, 16) for share in (0.0, 0.1, 0.5, 0.99)] == [0, 2, 8, 15]
    assert [count_of(float(share), 2) for share in SHARES] == [0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("batch", ["N", "1", "7", "64"])
def test_images_are_those_of_the_data_whatever_the_batch(network, batch):
    graph = net(network, batch)
    np.testing.assert_array_equal(_images(data_of(graph))["x"], X)


def test_inputs_that_have_no_first_axis_in_common(network):
    body = (
        "(float[N,2,5,5] x, float k) => (float[N,3,5,5] y) { a = Conv(x, w) m = Mul(a, k) r = Relu(m) y = Conv(r, v) }"
    )
    graph = network(body, w=_RNG.standard_normal((4, 2, 1, 1)), v=_RNG.standard_normal((3, 4, 1, 1)))
    specs = TensorSpec.inputs_of(to_proto(graph))
    data = Dataset.from_arrays({"x": X[:, None], "k": np.ones(40, np.float32)}, inputs=specs)
    images = _images(data)
    assert {name: values.shape for name, values in images.items()} == {"x": (40, 1, 2, 5, 5), "k": (40,)}
    assert sorted(curves(graph, Context(calibration=data))) == ["a"]


def test_others_are_judged_by_than_fitted_to(network):
    graph = net(network)
    subject = subject_of(graph, trial(), Context(), data_of(graph))
    assert subject.apart is not None
    np.testing.assert_array_equal(np.concatenate([subject.images["x"], subject.apart[0]["x"]]), X)
    assert subject_of(graph, trial(), Context(), data_of(graph, X[:2])).apart is None
