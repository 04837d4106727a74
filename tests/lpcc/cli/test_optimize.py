from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from lpcc import driver, edit
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass, Need
from lpcc.pipeline.known import known_passes
from lpcc.report import Report

BASE = ("--target", "arm-cortex-a72", "--pipeline", "fold-bn,dce")


def _npz(path: str, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return path


def _images(count: int = 2) -> Any:
    return np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype(np.float32)


def test_writes_a_model_and_shows_a_report(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("optimize", model, *BASE, "--json", "report.json")
    assert (done.code, done.err) == (0, "")
    after = onnx.load("net.arm-cortex-a72.onnx")
    assert "BatchNormalization" not in {node.op_type for node in after.graph.node}
    assert "net.onnx -> net.arm-cortex-a72.onnx" in done.out
    assert "batch norm folded" in done.out
    assert "result: the optimised model" in done.out
    report = Report.from_json(json.loads(Path("report.json").read_text()))
    assert report.output == "net.arm-cortex-a72.onnx"
    assert report.after.nodes < report.before.nodes
    assert report.after.file_bytes == Path("net.arm-cortex-a72.onnx").stat().st_size
    assert report.verdict.met_budget


def test_one_screen(lpcc: Callable[..., Any], model: Path) -> None:
    assert len(lpcc("optimize", model, *BASE).out.splitlines()) <= 40


def test_quiet_and_json_on_stdout(lpcc: Callable[..., Any], model: Path) -> None:
    assert lpcc("optimize", model, *BASE, "-q").out == ""
    assert json.loads(lpcc("optimize", model, *BASE, "--json", "-").out)["model"] == "net.onnx"


def test_a_budget_that_exact_passes_do_not_need_is_told(lpcc: Callable[..., Any], model: Path) -> None:
    data = _npz("data.npz", x=_images(), labels=np.array([0, 1]))
    told = "note: all passes of the pipeline are exact"
    for options in (("--eval", data), ("--min-sqnr", "30"), ("--min-agreement", "99"), ("--emulate", "arm")):
        assert told in lpcc("optimize", model, *BASE, *options).out
    assert told not in lpcc("optimize", model, *BASE, "--calib", data).out


def test_a_floor_of_agreement_needs_classes(lpcc: Callable[..., Any], model: Path) -> None:
    proto = onnx.load(model)
    del proto.graph.node[6:]  # what pools and classifies
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("s", 1, ["N", 8, "H", "W"]))
    onnx.save(proto, "map.onnx")
    done = lpcc("optimize", "map.onnx", *BASE, "--min-agreement", "95")
    assert done.code == 2
    assert "--min-agreement 95: no output of the model is about classes" in done.error
    assert "--min-sqnr" in done.error


def test_verbose_says_more(lpcc: Callable[..., Any], model: Path) -> None:
    brief, full = lpcc("optimize", model, *BASE), lpcc("optimize", model, *BASE, "-v")
    assert "layer " not in brief.out
    assert "layer " in full.out


def test_a_dry_run_writes_nothing(lpcc: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    done = lpcc("optimize", model, *BASE, "--dry-run")
    assert done.code == 0
    assert "batch norm folded" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_the_result_of_a_target_with_a_slash_in_its_name_is_no_folder(lpcc: Callable[..., Any], model: Path) -> None:
    assert lpcc("optimize", model, "-t", "arm-cortex-a72/ncnn", "-p", "fold-bn").code == 0
    assert Path("net.arm-cortex-a72-ncnn.onnx").is_file()


def test_a_quantised_model_is_passed_through_and_the_report_says_so(lpcc: Callable[..., Any], wide: Path) -> None:
    assert lpcc("optimize", wide, *QUANTISED, "-p", "exact,quantize{ranges=minmax}", "-o", "int8.onnx").code == 0
    done = lpcc("optimize", "int8.onnx", *QUANTISED, "--preset", "accurate", "-o", "again.onnx")
    assert done.code == 0
    assert "the approximate passes found nothing to do: the model is quantised already (QDQ form" in done.out


def test_weights_alone_are_judged_on_made_up_images_too(lpcc: Callable[..., Any], model: Path) -> None:
    options = ("-t", "arm-cortex-a72", "-p", "exact,quantize-weights", "--json", "r.json")
    assert lpcc("optimize", model, *options).code == 0
    report = Report.from_json(json.loads(Path("r.json").read_text()))
    assert (report.quality.data, report.quality.samples) == ("synthetic", 64)
    proto = onnx.load(model)
    del proto.graph.node[1:]  # without batch norms nothing tells what images look like
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("c", 1, ["N", 8, "H", "W"]))
    onnx.save(proto, "bare.onnx")
    done = lpcc("optimize", "bare.onnx", *options)
    assert done.code == 0
    assert "note: stays in float, and nothing is done by quantize-weights: without images (--calib)" in " ".join(
        done.out.split()
    )


def test_the_same_bytes_twice(lpcc: Callable[..., Any], model: Path) -> None:
    lpcc("optimize", model, *BASE, "-o", "a.onnx", "--seed", "3")
    lpcc("optimize", model, *BASE, "-o", "b.onnx", "--seed", "3")
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_verify_and_dump(lpcc: Callable[..., Any], model: Path) -> None:
    assert lpcc("optimize", model, *BASE, "--verify", "--dump-dir", "dump").code == 0
    assert {"start.txt", "000_fold-bn.txt", "001_dce.txt"} <= {path.name for path in Path("dump").iterdir()}
    assert "BatchNormalization" not in Path("dump/000_fold-bn.txt").read_text()
    assert lpcc("optimize", model, *BASE, "--dump-dir", "net.onnx").code == 2


def test_a_budget_that_is_not_met_is_4_and_the_model_is_written(
    lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimize = driver.optimize

    def short_of_budget(*arguments: Any, **options: Any) -> driver.Result:
        result = optimize(*arguments, **options)
        verdict = replace(result.report.verdict, met_budget=False, reasons=("top1 falls by 3.10 points",))
        return replace(result, report=replace(result.report, verdict=verdict))

    monkeypatch.setattr(driver, "optimize", short_of_budget)
    done = lpcc("optimize", model, *BASE, "-o", "out.onnx")
    assert done.code == 4
    assert "NOT met" in done.out
    assert "top1 falls by 3.10 points" in done.out
    onnx.checker.check_model("out.onnx")


def test_never_over_the_input_unless_told(lpcc: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    for name in ("net.onnx", str(tmp_path / "sub" / ".." / "net.onnx")):
        (tmp_path / "sub").mkdir(exist_ok=True)
        done = lpcc("optimize", model, *BASE, "-o", name)
        assert done.code == 2
        assert "is the input model" in done.error
        assert model.read_bytes() == before
    assert lpcc("optimize", model, *BASE, "-o", "net.onnx", "--force").code == 0
    assert model.read_bytes() != before


@pytest.mark.parametrize("option", ["--calib", "--eval"])
def test_never_over_the_data(lpcc: Callable[..., Any], model: Path, option: str) -> None:
    data = _npz("data.npz", x=_images(), labels=np.array([0, 1]))
    for wanted in (("-o", data), ("--json", data)):
        done = lpcc("optimize", model, *BASE, option, data, *wanted)
        assert (done.code, Path(data).stat().st_size > 0) == (2, True)
        assert "data.npz" in done.error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--target", "arm-cortex-a7"), "arm-cortex-a72"),
        (("--target", "./missing.toml"), "missing.toml"),
        (("--pipeline", "fold-nb"), "fold-bn"),
        (("--pipeline", "fold-bn{"), "column"),
        (("--metric", "top2", "--eval", "data.npz"), "top2"),
        (("--metric", "top1"), "--eval"),
        (("--preprocess", "missing.toml", "--calib", "data.npz"), "missing.toml"),
        (("-o", "."), "folder"),
        (("-o", "missing/out.onnx"), "missing"),
        (("-o", "/proc/out.onnx"), "/proc/out.onnx"),
        (("--json", "missing/report.json"), "missing"),
        (("--json", "net.onnx"), "net.onnx"),
    ],
)
def test_wrong_requests(lpcc: Callable[..., Any], model: Path, options: tuple[str, ...], says: str) -> None:
    _npz("data.npz", x=_images(), labels=np.array([0, 1]))
    kept = model.read_bytes()
    done = lpcc("optimize", model, *BASE, *options)
    assert done.code in (2, 3)
    assert says in done.error
    assert {path.name for path in Path().iterdir()} == {"net.onnx", "data.npz"}
    assert model.read_bytes() == kept


def _bad_data() -> dict[str, dict[str, Any]]:
    images = _images()
    nan = images.copy()
    nan[0, 0, 0, 0] = np.nan
    return {
        "wrong name": {"image": images},
        "wrong shape": {"x": images[:, :1]},
        "wrong rank": {"x": images[0]},
        "wrong type": {"x": images.astype(np.float64)},
        "NaN": {"x": nan},
        "no samples": {"x": images[:0]},
        "pickled": {"x": np.array([{"a": 1}, None], dtype=object)},
    }


@pytest.mark.parametrize("wrong", _bad_data())
def test_refused_data(lpcc: Callable[..., Any], model: Path, wrong: str) -> None:
    _npz("data.npz", **_bad_data()[wrong])
    done = lpcc("optimize", model, *BASE, "--calib", "data.npz")
    assert done.code == 3
    assert "data.npz" in done.error
    assert {path.name for path in Path().iterdir()} == {"net.onnx", "data.npz"}


def test_missing_data_and_missing_labels(lpcc: Callable[..., Any], model: Path) -> None:
    assert lpcc("optimize", model, *BASE, "--calib", "missing.npz").code == 3
    _npz("data.npz", x=_images())
    done = lpcc("optimize", model, *BASE, "--eval", "data.npz")
    assert done.code == 3
    assert "labels" in done.error


@dataclass(frozen=True)
class Crash(LocalPass):
    """A pass that crashes."""

    name: ClassVar[str] = "crash"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:
        raise ZeroDivisionError("division by zero")


@dataclass(frozen=True)
class Ruin(LocalPass):
    """An approximate pass that leaves nothing of the outputs."""

    name: ClassVar[str] = "ruin"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) == "Gemm":
                    e.replace_input(node, 1, e.constant("w", -np.asarray(node.inputs[1].values)))
                    e.replace_input(node, 2, e.constant("b", -np.asarray(node.inputs[2].values)))
                    changes.done(node, "ruined")


@pytest.fixture
def wrong_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**known_passes(), "crash": Crash, "ruin": Ruin}
    monkeypatch.setattr("lpcc.pipeline.known.known_passes", lambda: known)


def test_a_crashing_pass_leaves_a_reproducer_and_no_model(
    lpcc: Callable[..., Any], model: Path, wrong_passes: None
) -> None:
    done = lpcc("optimize", model, "-t", "arm-cortex-a72", "-p", "fold-bn,crash,dce", "-o", "out.onnx")
    assert done.code == 1
    assert "pass `crash` crashed: ZeroDivisionError: division by zero" in done.error
    (folder,) = Path().glob("lpcc-reproducer-*")
    assert str(folder) in done.error
    assert (folder / "pipeline.txt").read_text() == "crash,dce\n"
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
    assert not Path("out.onnx").exists()
    assert "Traceback" in lpcc("optimize", model, "-t", "arm-cortex-a72", "-p", "crash", "-v").err


def test_a_pass_that_ruins_the_model_is_taken_back(lpcc: Callable[..., Any], model: Path, wrong_passes: None) -> None:
    data = _npz("data.npz", x=_images(16))
    options = ("-t", "arm-cortex-a72", "-p", "fold-bn,ruin", "--calib", data, "-o", "out.onnx", "--json", "r.json")
    done = lpcc("optimize", model, *options)
    assert done.code == 4
    assert "NOT met" in done.out
    report = Report.from_json(json.loads(Path("r.json").read_text()))
    assert not report.verdict.met_budget
    assert report.verdict.kept == "partly"
    assert lpcc("diff", model, "out.onnx", "--data", data, "--json", "d.json").code == 0
    assert json.loads(Path("d.json").read_text())["outputs"][0]["relative"] < 1e-4


QUANTISED = ("--target", "arm-cortex-a72", "--calib", "x.npz")


@pytest.fixture
def calib(model: Path) -> str:
    return _npz("x.npz", x=_images(8))


def test_a_preset(lpcc: Callable[..., Any], model: Path, calib: str) -> None:
    done = lpcc("optimize", model, *QUANTISED, "--preset", "fast", "--json", "report.json")
    assert done.code == 0, done.err
    report = Report.from_json(json.loads(Path("report.json").read_text()))
    assert report.pipeline == "exact,fast"
    (quantize,) = [item for item in report.passes if item.name == "quantize"]
    assert quantize.options["ranges"] == "output"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "fats"), "unknown preset `fats`; did you mean fast"),
        (("--preset", "fast", "--pipeline", "exact"), "give it or --pipeline, not both"),
        (("--keep", "d", "--pipeline", "exact"), "--keep: no pass of `exact` takes it"),
        (("--keep", "a,,b"), "--keep a,,b: expected the name of a node between the commas"),
        (("--keep", '"a'), '--keep "a: unclosed or malformed quotes'),
        (("--preset", "fast", "--target", "eyeriss"), "of target eyeriss, `exact`, has no `quantize` to replace: give"),
        (("--calib", ""), "data without a name: give an .npz file"),
        (("--max-drop", "2"), "--max-drop 2 needs labels to measure a drop on: give labelled images with --eval"),
        (("--max-drop", "101"), "--max-drop takes percentage points between 0 and 100, not 101"),
        (("--min-agreement", "101"), "--min-agreement"),
        (("--pipeline", "exact,quantize{skip=frist}"), "quantize: skip names `frist`, which no node of the graph"),
        (("--emulate", "arms"), "--emulate arms: unknown kernels; did you mean arm"),
    ],
)
def test_what_cannot_be_asked_for(
    lpcc: Callable[..., Any], model: Path, calib: str, arguments: tuple[str, ...], message: str
) -> None:
    done = lpcc("optimize", model, *QUANTISED, *arguments)
    assert done.code == (3 if "--calib" in arguments else 2)
    assert message in done.error


def _quantised(path: str) -> list[str]:
    from lpcc.analysis.quantized import quantized_layers
    from lpcc.graph import load

    return [str(layer.node.name) for layer in quantized_layers(load(path))]


def test_layers_to_keep_and_the_only_ones(lpcc: Callable[..., Any], wide: Path) -> None:
    base = ("optimize", wide, *QUANTISED, "-p", "exact,quantize{ranges=minmax min-work=0}")
    assert lpcc(*base, "-o", "all.onnx").code == 0
    assert _quantised("all.onnx") == ["first", "second", "classify"]
    assert lpcc(*base, "-o", "kept.onnx", "--keep", "cl*").code == 0
    assert _quantised("kept.onnx") == ["first", "second"]
    assert lpcc(*base, "-o", "only.onnx", "--only", "second,sum", "--only", "first").code == 0
    assert _quantised("only.onnx") == ["first", "second"]
    done = lpcc(*base, "-o", "none.onnx", "--keep", "frist")
    assert done.code == 2
    assert "first" in done.error  # the nearest name
    assert not Path("none.onnx").exists()


def test_emulation_is_in_the_report(lpcc: Callable[..., Any], wide: Path) -> None:
    base = ("optimize", wide, "-t", "x86-avx512-vnni", "--calib", "x.npz", "--preset", "fast")
    done = lpcc(*base, "--emulate", "x86-novnni")
    assert done.code == 0
    assert "as x86-novnni computes" in done.out
    assert "saturate" in done.out
    assert "quantize{reduce-range=true}" in done.out
    assert "saturate" not in lpcc(*base).out


def test_a_model_whose_report_cannot_be_written_is_there(
    lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lpcc.cli.terminal import Terminal
    from lpcc.errors import UsageError

    def full(_terminal: Terminal, _data: Any) -> None:
        raise UsageError("r.json: cannot be written: no space left")

    monkeypatch.setattr(Terminal, "write_json", full)
    done = lpcc("optimize", model, *BASE, "--json", "r.json")
    assert done.code == 2
    assert done.error.endswith("no space left; the model itself is written: net.arm-cortex-a72.onnx")
    assert Path("net.arm-cortex-a72.onnx").exists()
    assert not lpcc("optimize", model, *BASE, "--json", "r.json", "--dry-run").error.endswith(".onnx")
