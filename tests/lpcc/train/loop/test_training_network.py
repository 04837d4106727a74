"""The loop with what it is for: a graph as the student, another as its teacher, a sum of losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.runtime import Session
from lpcc.testing.golden import read_model
from lpcc.train.history import History
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop import fit  # noqa: E402
from lpcc.train.losses.objective import Objective  # noqa: E402
from lpcc.train.network import Network  # noqa: E402

MODEL = """
<ir_version: 10, opset_import: ["": 17]>
g (float[N,3,10,10] x) => (float[N,5] y)
<float[8,3,3,3] filter, float[8] scale, float[8] shift, float[8] mean, float[8] var, float[5,8] matrix, float[5] bias>
{
    c = Conv<pads=[1,1,1,1]>(x, filter)
    n = BatchNormalization(c, scale, shift, mean, var)
    r = Relu(n)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm<transB=1>(f, matrix, bias)
}
"""
RECIPE = Recipe(optimiser="sgd", epochs=3, batch=16, learning_rate=0.05, average=0.9)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def graph(noise: float = 0.0) -> gs.Graph:
    """The model; with `noise` its filter is spoilt, and a fifth of it pruned."""
    found = from_proto(read_model(MODEL))
    for tensor in found.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.name == "var":
            tensor.values = np.abs(tensor.values) + 0.5
        if isinstance(tensor, gs.Constant) and tensor.name == "filter" and noise:
            rng = np.random.default_rng(0)
            values = tensor.values + noise * rng.standard_normal(tensor.shape).astype(np.float32)
            tensor.values = np.where(rng.random(tensor.shape) < 0.2, 0, values).astype(np.float32)
    return found


def samples(count: int = 200) -> np.ndarray[Any, Any]:
    """Images of different colours, so that they are of different classes."""
    rng = np.random.default_rng(1)
    colours = 3 * rng.standard_normal((count, 3, 1, 1))
    return (colours + rng.standard_normal((count, 3, 10, 10))).astype(np.float32)


def retrained(**options: Any) -> tuple[gs.Graph, Network, History]:
    student_graph = graph(noise=0.5)
    student, teacher = Network(student_graph), Network(graph(), frozen=True)
    objective = Objective.of("logits+hint", student, teacher, {"x": samples(16)})
    history = fit(student, teacher, objective, Dataset.from_arrays({"x": samples()}), RECIPE, **options)
    student.write(student_graph)
    return student_graph, student, history


def test_a_spoilt_graph_learns_from_the_whole_one() -> None:
    found, student, history = retrained()
    assert history.best > 0
    assert history.start_loss is not None
    last = history.epochs[-1].held_out_loss
    assert last is not None
    assert last < 0.7 * history.start_loss
    assert set(history.epochs[0].parts) == {"logits", "hint"}

    feeds = {"x": samples(64)}
    ours = Session(to_proto(found)).run(feeds)["y"]
    with torch.no_grad():
        theirs = student({"x": torch.from_numpy(feeds["x"])})["y"].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    before, whole = (Session(to_proto(g)).run(feeds)["y"] for g in (graph(noise=0.5), graph()))
    assert np.square(ours - whole).sum() < 0.8 * np.square(before - whole).sum()

    tensors, old = found.tensors(), graph(noise=0.5).tensors()
    np.testing.assert_array_equal(tensors["filter"].values == 0, old["filter"].values == 0)
    assert (tensors["filter"].values == 0).any()
    assert (tensors["mean"].values != old["mean"].values).all()


def test_taken_up_again_the_file_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.ckpt"

    def stop(_what: str, done: int, _total: int) -> None:
        if done == 22:
            raise InterruptedError

    expected = to_proto(retrained()[0]).SerializeToString(deterministic=True)
    monkeypatch.setattr("lpcc.train.loop.training._REPORT", 0.0)
    with pytest.raises(InterruptedError):
        retrained(checkpoint=path, every=0, progress=stop)
    assert torch.load(path, weights_only=True)["content"]["step"] > 0
    found = to_proto(retrained(checkpoint=path, resume=True)[0]).SerializeToString(deterministic=True)
    assert found == expected
