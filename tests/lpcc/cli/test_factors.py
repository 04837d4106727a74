"""`lpcc inspect --factorize`: what layers could become, before anything is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lpcc.analysis.types import annotate
from lpcc.cost import Totals
from lpcc.errors import UsageError
from lpcc.graph import from_proto, load
from lpcc.passes import Factorize
from lpcc.pipeline import Context
from lpcc.pipeline.proposals import Proposal, Proposals, ProposesFactors
from lpcc.target import Target
from lpcc.testing.golden import read_model

LAYERS = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,32,H,W] x) => (float[N,4] y)
<float[64,32,3,3] w1, float[64,1,3,3] w2, float[64,64,3,3] w3, float[64,64,3,3] w4, float[4,64] w5>
{
    [smooth] a = Conv<pads = [1,1,1,1]>(x, w1)
    [depthwise] b = Conv<pads = [1,1,1,1], group = 64>(a, w2)
    [random] c = Conv<pads = [1,1,1,1]>(b, w3)
    [nothing] d = Conv<pads = [1,1,1,1]>(c, w4)
    [pool] p = GlobalAveragePool(d)
    [flat] f = Flatten(p)
    [classes] y = Gemm<transB = 1>(f, w5)
}
"""
SIZES = ("--dim", "N=1", "--dim", "H=16", "--dim", "W=16")
FACTORIZE = ("-t", "x86-avx2", "--factorize", *SIZES)
ORDER = ("layer", "method", "rank", "error", "time", "then", "faster", "MACs", "left", "params", "left")


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Layers: of rank 16 and a little more, of full rank, of zeros; a small and a depthwise one."""
    monkeypatch.chdir(tmp_path)
    model = read_model(LAYERS)
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((64, 3, 16)), rng.standard_normal((16, 32, 3))
    smooth = np.einsum("nwr,rch->nchw", left, right) + 0.5 * rng.standard_normal((64, 32, 3, 3))
    for tensor in model.graph.initializer:
        values = {"w1": smooth, "w4": np.zeros((64, 64, 3, 3))}.get(tensor.name)
        if values is not None:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    onnx.save(model, tmp_path / "layers.onnx")
    np.savez("x.npz", x=rng.standard_normal((16, 32, 16, 16)).astype(np.float32))
    return Path("layers.onnx")


def test_the_fastest_factors_of_each_layer(lpcc: Callable[..., Any], layers: Path) -> None:
    before = layers.read_bytes()
    done = lpcc("inspect", layers, *FACTORIZE, "--json", "found.json")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    title = lines.index("the fastest factors that lose at most 5 % of a layer, after the exact passes")
    assert tuple(lines[title + 1].split()) == ORDER
    assert lines[title + 2].split()[:3] == ["smooth", "bmd", "16"]
    assert lines[title + 3].startswith("1 layer: ")
    assert any(line.startswith("random stays whole: every rank that pays loses more: ") for line in lines)
    assert "nothing stays whole: its weights are all zero" in lines
    assert any(line.startswith("classes stays whole: no rank") for line in lines)
    assert any(line.startswith("depthwise stays whole: ") for line in lines)
    assert "--calib" in lines[-1]
    assert layers.read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["found.json", "layers.onnx", "x.npz"]


def test_json(lpcc: Callable[..., Any], layers: Path) -> None:
    assert lpcc("inspect", layers, *FACTORIZE, "--calib", "x.npz", "--json", "found.json").code == 0
    found = json.loads(Path("found.json").read_text())
    factors = found["factorize"]
    assert list(factors) == ["error", "latency_ms", "macs", "layers", "left"]
    smooth, random = factors["layers"]
    assert list(smooth) == ["layer", "method", "rank", "error", "error_of", "speedup", "before", "after"]
    assert (smooth["layer"], smooth["method"], smooth["rank"], smooth["error_of"]) == ("smooth", "bmd", [16], "outputs")
    assert 0 < smooth["error"] < 0.05
    assert smooth["before"]["macs"] == 64 * 32 * 9 * 256  # at the sizes that were asked for
    assert smooth["after"]["macs"] == 16 * (32 + 64) * 3 * 256
    assert smooth["speedup"] == pytest.approx(smooth["before"]["latency_ms"] / smooth["after"]["latency_ms"])
    assert factors["macs"]["before"] == found["total"]["macs"]
    assert random["layer"] == "random"  # on images it reads little more than the 16 maps of the layer before
    gain = sum(layer["before"]["latency_ms"] - layer["after"]["latency_ms"] for layer in factors["layers"])
    assert factors["latency_ms"]["before"] - factors["latency_ms"]["after"] == pytest.approx(gain)
    assert set(factors["left"]) == {"depthwise", "nothing", "classes"}


def test_what_it_says_is_what_the_pass_does(lpcc: Callable[..., Any], layers: Path) -> None:
    assert lpcc("inspect", layers, *FACTORIZE, "-q", "--json", "found.json").code == 0
    [said] = json.loads(Path("found.json").read_text())["factorize"]["layers"]
    graph = load(layers)
    annotate(graph)
    Factorize(ranks=(f"{said['layer']}={said['rank'][0]}",), bn=False).run(graph, Context())
    weights = [node.inputs[1].values for node in graph.nodes if node.name.startswith("smooth")]
    assert sum(each.size for each in weights) * 4 == said["after"]["weight_bytes"]


def test_by_images_or_by_weights(lpcc: Callable[..., Any], layers: Path) -> None:
    one_channel = np.zeros((16, 32, 16, 16), np.float32)
    one_channel[:, 0] = np.random.default_rng(1).standard_normal((16, 16, 16))
    np.savez("one.npz", x=one_channel)
    errors = {}
    for name, more in {"weights": (), "images": ("--calib", "one.npz")}.items():
        assert lpcc("inspect", layers, *FACTORIZE, *more, "--error", "0.4", "-q", "--json", "found.json").code == 0
        [smooth, *_] = json.loads(Path("found.json").read_text())["factorize"]["layers"]
        errors[name] = smooth["error"]
        assert smooth["error_of"] == ("outputs" if more else "weights")
    assert errors["images"] < 1e-3 < errors["weights"]  # one channel has three rows: a rank of 3 does


def test_the_limit_decides(lpcc: Callable[..., Any], layers: Path) -> None:
    chosen = {}
    for limit in ("1e-6", "0.05", "0.9"):
        done = lpcc("inspect", layers, *FACTORIZE, "--error", limit, "--json", "found.json")
        assert done.code == 0
        found = json.loads(Path("found.json").read_text())["factorize"]
        assert all(layer["error"] <= float(limit) for layer in found["layers"])
        chosen[limit] = [layer["layer"] for layer in found["layers"]]
        assert ("no layer gets faster within that" in done.out) == (not chosen[limit])
    assert chosen == {"1e-6": [], "0.05": ["smooth"], "0.9": ["smooth", "random"]}


def test_methods(lpcc: Callable[..., Any], layers: Path) -> None:
    for method, ranks in {"svd": 1, "tucker2": 2}.items():
        done = lpcc("inspect", layers, *FACTORIZE, "--method", method, "--error", "0.5", "--json", "found.json")
        assert done.code == 0
        found = json.loads(Path("found.json").read_text())["factorize"]["layers"]
        assert {layer["method"] for layer in found} == {method}
        assert {len(layer["rank"]) for layer in found} == {ranks}


def test_only_when_asked_for(lpcc: Callable[..., Any], layers: Path) -> None:
    done = lpcc("inspect", layers, "-t", "x86-avx2", *SIZES, "--json", "found.json")
    assert "factors" not in done.out
    assert "factorize" not in json.loads(Path("found.json").read_text())


def test_nothing_to_factorise(lpcc: Callable[..., Any], tmp_path: Path) -> None:
    onnx.save(
        read_model('<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) { y = Relu(x) }'),
        tmp_path / "relu.onnx",
    )
    done = lpcc("inspect", tmp_path / "relu.onnx", "-t", "x86-avx2", "--factorize")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "no layer gets faster within that" in lines
    assert lines[-1].startswith("note: what is lost is counted in weights")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--error", "0.1"), 2, "--error 0.1: has no effect without --factorize"),
        (("--method", "svd"), 2, "--method svd: has no effect without --factorize"),
        (("--calib", "x.npz"), 2, "--calib x.npz: has no effect without --factorize"),
        (("--factorize", "--error", "0"), 2, "--error 0: expected a share above 0 and below 1, such as 0.05"),
        (("--factorize", "--error", "5"), 2, "--error 5: expected a share above 0 and below 1, such as 0.05"),
        (("--factorize", "--error", "nan"), 2, "--error nan: expected a share above 0 and below 1, such as 0.05"),
        (
            ("--factorize", "--method", "cpd,vbmf"),
            2,
            "--method cpd,vbmf: `method` takes bmd, cpd, cpd-separable, svd, tucker2, not `vbmf`",
        ),
        (("--factorize", "--method", ""), 2, "--method : `method` takes bmd, cpd, cpd-separable, svd, tucker2, not ``"),
        (("--factorize", "--preprocess", "p.toml"), 2, "--preprocess p.toml: is for the images of --calib"),
        (("--factorize", "--calib", "none.npz"), 3, "none.npz"),
        (("--factorize", "--calib", "x.npz", "--json", "x.npz"), 2, "--json x.npz: is another file of this command"),
    ],
)
def test_wrong_input(lpcc: Callable[..., Any], layers: Path, arguments: Any, code: int, message: str) -> None:
    done = lpcc("inspect", layers, "-t", "x86-avx2", *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.error


def test_lines_fit_a_terminal(lpcc: Callable[..., Any], layers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpcc.cli.terminal.Terminal.width", property(lambda _: 60))
    done = lpcc("inspect", layers, *FACTORIZE)
    lines = done.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("the fastest factors"))
    assert [line for line in lines[start:] if len(line) > 60] == []


def test_the_pass_keeps_the_protocol() -> None:
    assert isinstance(Factorize(error=0.1), ProposesFactors)


def test_sums() -> None:
    whole, part = Totals(2.0, 1.0, 100, 1000), Totals(0.5, 0.25, 25, 250)
    each = Proposal("a", "svd", (4,), 0.1, of_outputs=False, before=Totals(1.0, 0.5, 50, 500), after=part)
    found = Proposals((each,), {}, whole)
    assert (each.speedup, found.latency_ms, found.macs) == (2.0, 1.5, 750)


def test_a_target_is_needed() -> None:
    graph = load_layers()
    with pytest.raises(UsageError, match="priced on a target"):
        Factorize(error=0.1).proposals(graph, Context(), 0.1, {})
    assert Factorize(error=0.1).proposals(graph, Context(target=Target.load("x86-avx2")), 0.1, {}).left


def load_layers() -> Any:
    graph = from_proto(read_model(LAYERS))
    annotate(graph)
    return graph
