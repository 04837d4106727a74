from __future__ import annotations

import builtins
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,10] y)
<float[8,3,3,3] w1, float[10,512] w2, float[10] b2>
{
    c = Conv <pads = [1,1,1,1]> (x, w1)
    r = Relu (c)
    f = Flatten (r)
    y = Gemm <transB = 1> (f, w2, b2)
}
"""
needs_torch = pytest.mark.skipif(util.find_spec("torch") is None, reason="the training extra is not installed")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``teacher.onnx``, a ``student.onnx`` that something has hurt, and images in ``x.npz``, in the current folder."""
    monkeypatch.chdir(tmp_path)
    teacher = read_model(NETWORK)
    onnx.save(teacher, "teacher.onnx")
    rng = np.random.default_rng(0)
    for tensor in teacher.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        noise = rng.standard_normal(values.shape).astype(np.float32) * values.std()
        tensor.CopyFrom(onnx.numpy_helper.from_array(values + noise, tensor.name))
    onnx.save(teacher, "student.onnx")
    np.savez("x.npz", x=rng.standard_normal((256, 3, 8, 8)).astype(np.float32))
    return tmp_path


GIVEN = ("student.onnx", "--teacher", "teacher.onnx", "--train", "x.npz")


@needs_torch
def test_trains_and_reports(lpcc: Callable[..., Any], models: Path) -> None:
    done = lpcc(
        "retrain",
        *GIVEN,
        "--epochs",
        "3",
        "--learning-rate",
        "0.2",
        "--loss",
        "logits+hint*0.1",
        "--eval",
        "x.npz",
        "--json",
        "r.json",
    )
    assert (done.code, done.err) == (0, "")
    assert "epoch 3: loss" in done.out
    assert "student before agreement" in done.out
    assert done.out.endswith("written: student.trained.onnx\n")
    found = json.loads(Path("r.json").read_text())
    assert found["history"]["best"] > 0
    assert found["scores"]["after"] > found["scores"]["before"]
    assert found["pairs"]
    assert not list(models.glob("*.checkpoint"))


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set", "warmupp=1"], 2, "has no option `warmupp`; did you mean warmup?"),
        (["--set", "warmup"], 2, "--set warmup: expected OPTION=VALUE"),
        (["--set", "epochs=3"], 2, "--set epochs=3: give it as --epochs"),
        (["--set", "clip=1 epochs=3"], 2, "--set clip=1 epochs=3: give it as --epochs"),
        (["--set", "clip=1}"], 2, "--set clip=1}: unexpected `}`"),
        (["--set", "clip=1", "--set", "clip=2"], 2, "--set clip=2: given twice"),
        (["--mix", "cut"], 2, "error: training option `mix` takes one of none, mixup, cutmix, both, not `cut`"),
        (["--metric", "sqnr"], 2, "metric sqnr judges the images of `eval`"),
        (["--set", "optimiser=adagrad"], 2, "error: --set optimiser=adagrad: option `optimiser` takes one of"),
        (["--learning-rate", "-1"], 2, "option `learning-rate` takes a number between"),
        (["--loss", "kdd"], 2, "unknown loss `kdd`; did you mean kd?"),
        (["--loss", "kd+hard"], 2, "labels"),
        (["--pair", "r=nothing", "--loss", "hint"], 2, "nothing"),
        (["--metric", "top1", "--eval", "x.npz"], 3, "labels"),
        (["--labels"], 3, "x.npz: has no labels"),
        (["--train", "missing.npz"], 3, "missing.npz: no such file"),
        (["--output", "teacher.onnx"], 2, "teacher.onnx: is an input of this command"),
        (["--output", "student.onnx"], 2, "student.onnx: is the input model"),
    ],
)
def test_wrong_use(lpcc: Callable[..., Any], models: Path, arguments: list[str], code: int, message: str) -> None:
    done = lpcc("retrain", *GIVEN, *arguments)
    assert done.code == code, done.err
    assert message in done.error
    assert sorted(path.name for path in models.iterdir()) == ["student.onnx", "teacher.onnx", "x.npz"]


@needs_torch
def test_wrong_images(lpcc: Callable[..., Any], models: Path) -> None:
    np.savez("other.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    np.savez("nan.npz", x=np.full((8, 3, 8, 8), np.nan, np.float32))
    for name in ("other.npz", "nan.npz"):
        done = lpcc("retrain", *GIVEN, "--train", name)
        assert done.code == 3
        assert name in done.error


@needs_torch
def test_a_teacher_with_another_interface(lpcc: Callable[..., Any], models: Path) -> None:
    other = onnx.load("teacher.onnx")
    other.graph.output[0].name = other.graph.node[-1].output[0] = "z"
    onnx.save(other, "other.onnx")
    done = lpcc("retrain", "student.onnx", "--teacher", "other.onnx", "--train", "x.npz")
    assert done.code == 3
    assert "student.onnx: gives y, the teacher other.onnx gives z: both must have the same outputs" in done.error


@needs_torch
def test_a_loss_that_explodes_stops_and_keeps_the_best(lpcc: Callable[..., Any], models: Path) -> None:
    done = lpcc("retrain", *GIVEN, "--learning-rate", "1000", "--set", "optimiser=sgd clip=0 warmup=0")
    assert done.code == 0
    assert "is nan" in done.out or "is inf" in done.out or "not finite" in done.out
    found = onnx.load("student.trained.onnx")
    assert all(np.isfinite(onnx.numpy_helper.to_array(tensor)).all() for tensor in found.graph.initializer)


def test_without_torch(lpcc: Callable[..., Any], models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, package: str | None = None) -> Any:
        return None if name == "torch" else whole(name, package)

    def no_torch(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name=name)
        return imported(name, *rest, **more)

    whole, imported = util.find_spec, builtins.__import__
    monkeypatch.setattr(util, "find_spec", find)
    monkeypatch.setattr("lpcc.train.find_spec", find)
    monkeypatch.setattr(builtins, "__import__", no_torch)
    done = lpcc("retrain", *GIVEN)
    assert done.code == 2
    assert done.error == "lpcc: error: training needs torch, which is not installed: pip install 'lpcc[train]'"
    done = lpcc("optimize", "teacher.onnx", "-p", "exact,distill", "--train", "x.npz", "--target", "arm-cortex-a")
    assert done.code == 2
    assert "pass `distill` needs torch, which is not installed: pip install 'lpcc[train]'" in done.error
    assert lpcc("optimize", "teacher.onnx", "-p", "exact", "--target", "arm-cortex-a", "-q").code == 0


@needs_torch
def test_a_kill_in_the_middle_of_an_epoch_costs_nothing(models: Path) -> None:
    np.savez("x.npz", x=np.random.default_rng(1).standard_normal((2048, 3, 8, 8)).astype(np.float32))
    command = [sys.executable, "-m", "lpcc", "retrain", *GIVEN, "--epochs", "4", "--batch", "8", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([*command, "-o", "whole.onnx"], check=True, env=environment)
    running = subprocess.Popen([*command, "-o", "killed.onnx"], env=environment)
    state = Path("killed.onnx.checkpoint")
    deadline = time.monotonic() + 60
    while not state.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert not Path("killed.onnx").exists()
    refused = subprocess.run(
        [*command, "-o", "killed.onnx"], env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "give --resume to go on" in refused.stderr
    subprocess.run([*command, "-o", "killed.onnx", "--resume"], check=True, env=environment)
    assert Path("killed.onnx").read_bytes() == Path("whole.onnx").read_bytes()
    assert not state.exists()


@needs_torch
def test_who_interrupts_a_training_is_told_how_to_go_on(models: Path) -> None:
    np.savez("x.npz", x=np.random.default_rng(1).standard_normal((2048, 3, 8, 8)).astype(np.float32))
    command = [sys.executable, "-m", "lpcc", "retrain", *GIVEN, "--epochs", "400", "--batch", "8", "-o", "cut.onnx"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    state = Path("cut.onnx.checkpoint")
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 60
        while not state.exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        while running.poll() is None and time.monotonic() < deadline + 60:
            running.send_signal(signal.SIGINT)  # again, if it fell into a callback of the interpreter, which drops it
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(timeout=10)
        said = running.stderr.read()
    assert running.returncode == 130
    assert said.splitlines()[-2:] == [
        "lpcc: cut.onnx.checkpoint keeps what was learned: go on with --resume",
        "lpcc: interrupted",
    ]
    assert not Path("cut.onnx").exists()
    state.unlink()


@needs_torch
def test_resume_says_whether_there_was_anything_to_go_on_from(lpcc: Callable[..., Any], models: Path) -> None:
    done = lpcc("retrain", *GIVEN, "--epochs", "1", "--resume", "-o", "new.onnx")
    assert "new.onnx.checkpoint is not there: training begins anew" in done.out
