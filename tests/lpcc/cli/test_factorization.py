"""Factorisation as a user asks for it: under the guard, with odd weights and impossible wishes, beside other passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lpcc.report import Report
from lpcc.runtime import Session
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,8,16,16] x) => (float[N,6] y)
<float[32,8,3,3] w1, float[32] b1, float[32,32,3,3] w2, float[32] b2, float[64,32,3,3] w3, float[64] b3,
 float[64,64,1,1] w4, float[6,64] w5, float[6] b5>
{
    [stem] c = Conv <pads = [1,1,1,1]> (x, w1, b1)
    [on] r = Relu (c)
    [inner] d = Conv <pads = [1,1,1,1]> (r, w2, b2)
    [sum] s = Add (d, r)
    [wide] e = Conv <pads = [1,1,1,1]> (s, w3, b3)
    [relu] f = Relu (e)
    [point] h = Conv (f, w4)
    [pool] g = GlobalAveragePool (h)
    [flat] q = Flatten (g)
    [head] y = Gemm <transB = 1> (q, w5, b5)
}
"""
TARGET = ("--target", "x86-avx2")
DATA = ("--calib", "calib.npz", "--eval", "eval.npz")
HALF = "factorize{macs=0.55}"


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 8, 16, 16)).astype(np.float32)


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    """Weights whose singular values fall, and images of all classes."""
    proto, rng = read_model(NETWORK), np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 1:
            rows = rng.standard_normal((len(values), values[0].size))
            u, _, v = np.linalg.svd(rows, full_matrices=False)
            found = (u * 0.8 ** np.arange(u.shape[1])) @ v
            values = (found * np.sqrt(2 * len(rows) / np.square(found).sum())).reshape(values.shape)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    said = Session(proto).run({"x": images(256, 2)})["y"]
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "b5")
    centred = onnx.numpy_helper.to_array(bias) - said.mean(axis=0)
    bias.CopyFrom(onnx.numpy_helper.from_array(centred.astype(np.float32), "b5"))
    return proto


@pytest.fixture
def model(network: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The network in the current folder, with images to calibrate on, and to judge on by what it says itself."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network, "net.onnx")
    x = images(128, 1)
    np.savez("eval.npz", x=x, labels=Session(network).run({"x": x})["y"].argmax(1))
    np.savez("calib.npz", x=images(64, 0))
    return Path("net.onnx")


def report() -> Report:
    return Report.from_json(json.loads(Path("r.json").read_text()))


def cut(path: str) -> list[str]:
    """The layers of the file that are several."""
    return [node.output[0] for node in onnx.load(path).graph.node if any("/" in name for name in node.input[:1])]


def spoil(model: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write the model with other weights in `inner`."""
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        if tensor.name == "w2":
            tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), "w2"))
    onnx.save(proto, model)


class TestUnderTheGuard:
    @pytest.mark.parametrize(
        "item", [HALF, "factorize{speedup=1.3 bn=false}", "factorize{energy=0.9}", "factorize{max-drop=5}"]
    )
    def test_within_the_budget(self, lpcc: Callable[..., Any], model: Path, item: str) -> None:
        options = ("-p", f"exact,{item},fold-bn", "--max-drop", 30, "-o", "o.onnx", "--json", "r.json")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert (done.code, done.err) == (0, "")
        found = report()
        assert cut("o.onnx")
        assert found.verdict.kept == "optimised"
        assert found.after.macs < found.before.macs
        assert found.after.latency_ms < found.before.latency_ms
        assert found.quality.drop is not None
        assert found.quality.drop <= 30
        assert not any(node.op_type == "BatchNormalization" for node in onnx.load("o.onnx").graph.node)

    def test_layers_go_back_until_the_budget_holds(self, lpcc: Callable[..., Any], model: Path) -> None:
        """The layer that does most damage goes back; the other is cut no more for it."""
        asked = ("optimize", model, *TARGET, *DATA, "--json", "r.json", "-p")
        ranks = 'exact,factorize{ranks="stem=1","wide=32" bn=false}'
        whole = lpcc(*asked, ranks, "--max-drop", 100, "-o", "whole.onnx")
        assert cut("whole.onnx") == ["c", "e"]
        assert "2 layers stand for it" in whole.out
        assert 'factorize{skip="stem"}' in whole.out
        harm = report().quality.drop
        assert harm is not None
        assert harm > 3
        done = lpcc(*asked, ranks, "--max-drop", harm / 2, "-o", "part.onnx")
        assert done.code == 0
        assert cut("part.onnx") == ["e"]
        found = report()
        assert found.verdict.kept == "partly"
        assert found.verdict.reasons[0].startswith("`stem` went back: ")
        assert next(layer.note for layer in found.layers if layer.name == "stem").startswith("whole: went back")
        sizes = {tensor.name: list(tensor.dims) for tensor in onnx.load("part.onnx").graph.initializer}
        assert sizes["wide/bmd0/weight"] == [32, 32, 3, 1]

    def test_nothing_is_left_within_the_budget(self, lpcc: Callable[..., Any], model: Path) -> None:
        options = ("-p", f"exact,{HALF}", "--max-drop", 100, "--min-sqnr", 90, "-o", "o.onnx")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert done.code == 4
        assert cut("o.onnx") == []

    def test_what_is_no_faster_is_taken_back(self, lpcc: Callable[..., Any], model: Path) -> None:
        options = ("-p", 'exact,factorize{ranks="head=6","point=64"}', "--max-drop", 100, "-o", "o.onnx")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert done.code == 0
        assert "approximate passes taken back: predicted" in done.out
        assert cut("o.onnx") == []

    def test_before_quantize(self, lpcc: Callable[..., Any], model: Path) -> None:
        pipeline = f"exact,{HALF},fold-bn,quantize{{ranges=minmax min-work=0}}"
        options = ("-p", pipeline, "--max-drop", 60, "-o", "o.onnx", "--json", "r.json")
        done = lpcc("optimize", model, "-t", "arm-cortex-a76", *DATA, *options)
        assert done.code == 0
        assert {"factorize", "quantize"} <= {one.name for one in report().passes if one.counts}

    def test_after_pruning(self, lpcc: Callable[..., Any], model: Path) -> None:
        pipeline = "exact,prune-channels{ratio=0.25 processes=1},factorize{macs=0.7 bn=false}"
        options = ("-p", pipeline, "--max-drop", 90, "-o", "o.onnx", "--json", "r.json")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert done.code == 0
        assert {"factorize", "prune-channels"} <= {one.name for one in report().passes if one.counts}

    def test_without_labels_and_without_images(self, lpcc: Callable[..., Any], model: Path) -> None:
        asked = ("optimize", model, *TARGET, "-p", "exact,factorize{fit=weights energy=0.95}", "-o", "o.onnx")
        assert lpcc(*asked, "--calib", "calib.npz", "--min-agreement", 30).code == 0
        assert cut("o.onnx")

    def test_a_dry_run(self, lpcc: Callable[..., Any], model: Path) -> None:
        done = lpcc("optimize", model, *TARGET, "-p", f"exact,{HALF}", "--dry-run")
        assert (done.code, done.err) == (0, "")
        assert "factorize" in done.out
        assert sorted(path.name for path in Path().iterdir()) == ["calib.npz", "eval.npz", "net.onnx"]

    @pytest.mark.skipif(find_spec("torch") is None, reason="the training extra is not installed")
    def test_with_training(self, lpcc: Callable[..., Any], model: Path) -> None:
        np.savez("train.npz", x=images(128, 5))
        ranks = 'factorize{ranks="inner=2","wide=4" fit=weights bn=false}'  # which leaves much to learn
        pipeline = f"exact,{ranks},distill{{epochs=2 batch=16 metric=loss learning-rate=0.001}},exact"
        options = ("-p", pipeline, "--train", "train.npz", "--max-drop", 90, "-o", "o.onnx", "--json", "r.json")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert done.code == 0
        assert cut("o.onnx")
        assert not any(node.op_type == "BatchNormalization" for node in onnx.load("o.onnx").graph.node)
        trained = next(one for one in report().passes if one.name == "distill")
        assert trained.counts["weights trained"]

    def test_same_bytes_twice(self, lpcc: Callable[..., Any], model: Path) -> None:
        for name in ("one.onnx", "two.onnx"):
            options = ("-p", f"exact,{HALF}", "--max-drop", 100, "-o", name)
            assert lpcc("optimize", model, *TARGET, *DATA, *options).code == 0
        assert Path("one.onnx").read_bytes() == Path("two.onnx").read_bytes()


class TestImpossible:
    @pytest.mark.parametrize(
        ("item", "code", "said"),
        [
            ("factorize{macs=0.001}", 4, "factorize: macs=0.001 cannot be met: the best that ranks allow is macs=0."),
            (
                "factorize{speedup=100}",
                4,
                "factorize: speedup=100 cannot be met: the best that ranks allow is speedup=",
            ),
            ("factorize{size=0}", 4, "factorize: size=0 cannot be met: the best that ranks allow is size=0."),
            ('factorize{ranks="inner=0"}', 2, "`inner=0`: a rank of 0 is not between 1 and 96"),
            ('factorize{ranks="inner=1000"}', 2, "`inner=1000`: a rank of 1000 is not between 1 and 96"),
            ('factorize{ranks="iner=10"}', 2, "which no node of the graph is called: the nearest are `inner`"),
            ('factorize{method=tucker2 ranks="inner=8x0"}', 2, "a rank of 0 is not between 1 and 32"),
            ("factorize{method=vbmf macs=0.5}", 2, "`method` takes bmd, cpd, cpd-separable, svd, tucker2, not `vbmf`"),
            ("factorize", 2, "give `speedup`, `macs`, `size` or `error`, or one of"),
        ],
    )
    def test_what_was_asked(self, lpcc: Callable[..., Any], model: Path, item: str, code: int, said: str) -> None:
        before = {path.name for path in Path().iterdir()}
        done = lpcc("optimize", model, *TARGET, *DATA, "-p", f"exact,{item}", "-o", "o.onnx", "--json", "r.json")
        assert done.code == code
        assert said in done.error
        assert {path.name for path in Path().iterdir()} == before


class TestOddWeights:
    def test_that_are_no_numbers(self, lpcc: Callable[..., Any], model: Path) -> None:
        """All that the network gives is NaN then: nothing can be judged by it. The pass alone leaves such a layer."""
        spoil(model, lambda w: np.where(w == w.max(), np.float32(np.nan), w))
        for fit in ("weights", "outputs"):
            options = ("-p", f"exact,factorize{{energy=0.9 fit={fit}}}", "-o", "o.onnx")
            done = lpcc("optimize", model, *TARGET, "--calib", "calib.npz", *options)
            assert done.code == 3
            assert "NaN" in done.error
            assert not Path("o.onnx").exists()

    def test_of_zeros(self, lpcc: Callable[..., Any], model: Path) -> None:
        spoil(model, np.zeros_like)
        options = ("-p", "factorize{energy=0.9}", "--max-drop", 100, "-o", "o.onnx", "-v")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert (done.code, done.err) == (0, "")
        assert "d" not in cut("o.onnx")
        assert "its weights are all zero" in done.out

    def test_of_one_pixel_by_cpd(self, lpcc: Callable[..., Any], model: Path) -> None:
        options = ("-p", 'exact,factorize{method=cpd ranks="point=8" bn=false}', "--max-drop", 100, "-o", "o.onnx")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert (done.code, done.err) == (0, "")
        assert cut("o.onnx") == ["h"]
        proto = onnx.load("o.onnx")
        assert [node.op_type for node in proto.graph.node if node.name.startswith("point")] == ["Conv", "Conv"]
