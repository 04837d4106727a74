"""Channel pruning as a user asks for it: under the guard, with goals that cannot be met, beside other passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lpcc
from lpcc.report import Report
from lpcc.runtime import Session
from lpcc.search import Infeasible
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,6] y)
<float[16,3,3,3] w1, float[16] scale, float[16] bias, float[16] mean, float[16] var, float[16,16,3,3] w2, float[16] b2,
 float[24,16,3,3] w3, float[24] b3, float[6,24] w5>
{
    [stem] c = Conv <pads = [1,1,1,1]> (x, w1)
    [norm] n = BatchNormalization (c, scale, bias, mean, var)
    [on] r = Relu (n)
    [inner] d = Conv <pads = [1,1,1,1]> (r, w2, b2)
    [sum] s = Add (d, r)
    [wide] e = Conv <pads = [1,1,1,1], strides = [2,2]> (s, w3, b3)
    [relu] f = Relu (e)
    [pool] g = GlobalAveragePool (f)
    [flat] q = Flatten (g)
    [head] y = Gemm <transB = 1> (q, w5)
}
"""
PINNED = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,6,8,8] y) <float[6,3,1,1] w> { y = Conv(x, w) }
"""
PRUNED = "prune-channels{processes=1 macs=0.7}"
TARGET = ("--target", "arm-cortex-m7")


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    proto = read_model(NETWORK)
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 1:
            values = (values / np.sqrt(np.prod(values.shape[1:]))).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return proto


@pytest.fixture
def model(network: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The network in the current folder, with images to calibrate on, and to judge on by what it says itself."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network, "net.onnx")
    x = images(256, 1)
    np.savez("eval.npz", x=x, labels=Session(network).run({"x": x})["y"].argmax(1))
    np.savez("calib.npz", x=images(96, 0))
    return Path("net.onnx")


DATA = ("--calib", "calib.npz", "--eval", "eval.npz")


def report() -> Report:
    return Report.from_json(json.loads(Path("r.json").read_text()))


def narrower(path: str) -> list[str]:
    """The layers of the file that make fewer channels than in the network."""
    whole = {"stem": 16, "inner": 16, "wide": 24}
    proto = onnx.load(path)
    sizes = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    made = {node.name: sizes[node.input[1]][0] for node in proto.graph.node if node.op_type == "Conv"}
    return [name for name, count in made.items() if count < whole[name]]


class TestUnderTheGuard:
    @pytest.mark.parametrize(
        "item", [PRUNED, "trim{processes=1 speedup=1.3}", "prune-channels{ratio=0.3 across=global}"]
    )
    def test_within_the_budget(self, lpcc: Callable[..., Any], model: Path, item: str) -> None:
        pipeline = f"exact,{item}"
        done = lpcc(
            "optimize", model, *TARGET, *DATA, "-p", pipeline, "--max-drop", 30, "-o", "o.onnx", "--json", "r.json"
        )
        assert (done.code, done.err) == (0, "")
        assert narrower("o.onnx")
        found = report()
        assert found.verdict.kept == "optimised"
        assert found.after.macs < found.before.macs
        assert found.after.latency_ms < found.before.latency_ms
        assert found.quality.drop is not None
        assert found.quality.drop <= 30
        pruned = next(one for one in found.passes if one.name == item.partition("{")[0])
        assert pruned.counts["made narrower"] == len(narrower("o.onnx"))
        assert {one.cause for one in found.worst} == {"channels"}
        assert "of its 16 channels went" in done.out or "of its 24 channels went" in done.out
        assert "integer" not in done.out

    def test_groups_go_back_until_the_budget_holds(self, lpcc: Callable[..., Any], model: Path) -> None:
        """The group that does most damage goes back; the other loses no more for it."""
        asked = ("optimize", model, *TARGET, *DATA, "--json", "r.json", "-p")
        shares = 'exact,prune-channels{shares="stem=0.75","wide=0.125"}'
        lpcc(*asked, shares, "--max-drop", 100, "-o", "whole.onnx")
        assert narrower("whole.onnx") == ["stem", "inner", "wide"]
        harm = report().quality.drop
        assert harm is not None
        assert harm > 3
        done = lpcc(*asked, shares, "--max-drop", harm - 1, "-o", "part.onnx")
        assert done.code == 0
        assert narrower("part.onnx") == ["wide"]
        found = report()
        assert found.verdict.kept == "partly"
        (reason,) = found.verdict.reasons
        assert reason.startswith("`stem` went back: by itself it leaves the outputs ")
        assert next(layer.note for layer in found.layers if layer.name == "stem").startswith("whole: went back")

    def test_nothing_is_left_within_the_budget(self, lpcc: Callable[..., Any], model: Path) -> None:
        options = ("-p", f"exact,{PRUNED}", "--max-drop", 100, "--min-sqnr", 90, "-o", "o.onnx")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert done.code == 4
        assert "approximate passes taken back: the outputs keep" in done.out
        assert "whichever layers go back" in done.out
        assert narrower("o.onnx") == []

    def test_what_is_no_faster_is_taken_back(self, lpcc: Callable[..., Any], model: Path) -> None:
        """Numbers of channels that kernels do not like."""
        options = ("-p", 'exact,prune-channels{shares="*=0.07"}', "--max-drop", 100, "-o", "o.onnx")
        done = lpcc("optimize", model, "-t", "x86-avx2", *DATA, *options)
        assert done.code == 0
        assert "approximate passes taken back: predicted" in done.out
        assert narrower("o.onnx") == []

    def test_before_quantize(self, lpcc: Callable[..., Any], model: Path) -> None:
        pipeline = f"exact,{PRUNED},quantize{{ranges=minmax min-work=0}}"
        options = ("-p", pipeline, "--max-drop", 40, "-o", "o.onnx", "--json", "r.json", "-v")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert done.code == 0
        assert {"prune-channels", "quantize"} <= {one.name for one in report().passes if one.counts}
        assert {"channels"} < {one.cause for one in report().worst}

    def test_without_labels_and_without_images(self, lpcc: Callable[..., Any], model: Path) -> None:
        asked = ("optimize", model, *TARGET, "-p", f"exact,{PRUNED}", "-o", "o.onnx")
        assert lpcc(*asked, "--calib", "calib.npz", "--min-agreement", 30).code == 0
        assert narrower("o.onnx")
        assert lpcc(*asked, "--min-agreement", 5).code in (0, 4)  # on images that batch norms tell

    @pytest.mark.skipif(find_spec("torch") is None, reason="the training extra is not installed")
    def test_with_training(self, lpcc: Callable[..., Any], model: Path) -> None:
        np.savez("train.npz", x=images(128, 5))
        pruned = "prune-channels{criterion=l1 repair=none processes=1 macs=0.5}"  # which leaves much to learn
        pipeline = f"{pruned},distill{{epochs=1 batch=16 metric=loss}},exact"
        options = ("-p", pipeline, "--train", "train.npz", "--max-drop", 60, "-o", "o.onnx", "--json", "r.json")
        done = lpcc("optimize", model, *TARGET, *DATA, *options)
        assert done.code == 0
        assert narrower("o.onnx")
        assert not [node for node in onnx.load("o.onnx").graph.node if node.op_type == "BatchNormalization"]
        trained = next(one for one in report().passes if one.name == "distill")
        assert trained.counts["weights trained"]


class TestImpossible:
    @pytest.mark.parametrize(
        ("item", "said"),
        [
            ("trim{speedup=100}", "trim: speedup=100 cannot be met: the best that channels allow is speedup="),
            ("trim{size=0}", "trim: size=0 cannot be met: the best that channels allow is size=0."),
            ("prune-channels{ratio=1}", "prune-channels: ratio=1 cannot be met: at most 0."),
            ("prune-channels{macs=0}", "prune-channels: macs=0 cannot be met: the least possible is macs=0."),
            ("prune-channels{macs=0.01 skip=stem}", "cannot be met without the layers in `skip`: the least possible"),
        ],
    )
    def test_goals_out_of_reach(self, lpcc: Callable[..., Any], model: Path, item: str, said: str) -> None:
        before = {path.name for path in Path().iterdir()}
        done = lpcc("optimize", model, *TARGET, *DATA, "-p", f"exact,{item}", "-o", "o.onnx", "--json", "r.json")
        assert done.code == 4
        assert said in done.error
        assert {path.name for path in Path().iterdir()} == before

    @pytest.mark.parametrize("item", ["trim{speedup=2}", "prune-channels{macs=0.5}", "prune-channels{ratio=0.1}"])
    def test_a_pinned_network(self, lpcc: Callable[..., Any], model: Path, item: str) -> None:
        onnx.save(read_model(PINNED), "pinned.onnx")
        before = {path.name for path in Path().iterdir()}
        done = lpcc("optimize", "pinned.onnx", *TARGET, "--calib", "calib.npz", "-p", f"exact,{item}", "-o", "o.onnx")
        assert done.code == 4
        assert "no channel of the network can go: " in done.error
        assert "`y` is an output of the model" in done.error
        assert {path.name for path in Path().iterdir()} == before

    @pytest.mark.parametrize(
        ("item", "said"),
        [
            ("prune-channels", "give one of `ratio`, `macs` and `shares`"),
            ("prune-channels{ratio=0.5 macs=0.5}", "give one of `ratio`, `macs` and `shares`"),
            ("trim", "give `speedup`, `macs`, `size` or `energy`"),
            ("trim{speedup=0.5}", "option `speedup` takes a number at least 1"),
            ('prune-channels{shares="stemm=0.5"}', "shares names `stemm`"),
            ('prune-channels{shares="stem=1.5"}', "a share from 0 to below 1, not `stem=1.5`"),
            ("prune-channels{macs=0.5 skip=stemm}", "skip names `stemm`"),
            ("prune-channels{macs=0.5 criterion=best}", "option `criterion` takes one of"),
        ],
    )
    def test_wrong_options(self, lpcc: Callable[..., Any], model: Path, item: str, said: str) -> None:
        before = {path.name for path in Path().iterdir()}
        done = lpcc("optimize", model, *TARGET, *DATA, "-p", f"exact,{item}", "-o", "o.onnx")
        assert done.code == 2
        assert said in done.error
        assert {path.name for path in Path().iterdir()} == before

    def test_keep_names_the_option_to_use(self, lpcc: Callable[..., Any], model: Path) -> None:
        done = lpcc("optimize", model, *TARGET, *DATA, "-p", f"exact,{PRUNED}", "--keep", "stem")
        assert done.code == 2
        assert "use the option `skip` of `prune-channels`" in done.error

    def test_from_python(self, network: onnx.ModelProto) -> None:
        given: dict[str, Any] = {"target": "arm-cortex-m7", "calib": {"x": images(32, 0)}}
        with pytest.raises(Infeasible, match="speedup=100 cannot be met"):
            lpcc.optimize(network, pipeline="exact,trim{speedup=100}", **given)
        with pytest.raises(Infeasible, match="speedup=100 cannot be met"):
            lpcc.driver.plan(network, pipeline="exact,trim{speedup=100}", **given)


class TestOtherCommands:
    @pytest.mark.parametrize("item", ["prune-channels{macs=0.5}", "trim{speedup=1.5}", "prune-channels{ratio=0.5}"])
    def test_a_dry_run(self, lpcc: Callable[..., Any], model: Path, item: str) -> None:
        before = {path.name for path in Path().iterdir()}
        done = lpcc("optimize", model, *TARGET, *DATA, "-p", f"exact,{item}", "--dry-run", "--json", "r.json")
        assert (done.code, done.err) == (0, "")
        assert report().after.macs <= 0.7 * report().before.macs
        assert {path.name for path in Path().iterdir()} == before | {"r.json"}

    def test_the_list_of_passes(self, lpcc: Callable[..., Any]) -> None:
        out = lpcc("passes").out
        assert "prune-channels" in out
        assert "trim" in out
        for name, option in (("prune-channels", "shares"), ("trim", "speedup")):
            assert option in lpcc("passes", name).out

    def test_bisect(self, lpcc: Callable[..., Any], model: Path) -> None:
        asked = ("bisect", model, *TARGET, "--data", "calib.npz", "-p", f"exact,{PRUNED}")
        assert "`prune-channels" in lpcc(*asked).out
        assert "leave it sound" in lpcc(*asked, "--tolerance", 10).out
        done = lpcc(*asked[:-1], "exact,trim{speedup=100}")
        assert "speedup=100 cannot be met" in done.out + done.err

    def test_verify(self, lpcc: Callable[..., Any], model: Path) -> None:
        options = ("-p", f"exact,{PRUNED}", "--max-drop", 50, "--verify", "--dump-dir", "dump", "-o", "o.onnx")
        assert lpcc("optimize", model, *TARGET, *DATA, *options).code == 0
        assert narrower("o.onnx")
