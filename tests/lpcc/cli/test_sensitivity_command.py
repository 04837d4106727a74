"""``lpcc sensitivity``: its table and files, what it refuses, and what is left of it after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lpcc as package
from lpcc.testing.golden import read_model

ROOT = str(Path(package.__file__).parents[1])

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,10] y)
<float[8,3,3,3] w1, float[6,8,3,3] w2, float[8,6,3,3] w3, float[10,8] w4>
{
    [first] a = Conv <pads = [1,1,1,1]> (x, w1)
    b = Relu (a)
    [second] c = Conv <pads = [1,1,1,1]> (b, w2)
    d = Relu (c)
    [third] e = Conv <pads = [1,1,1,1]> (d, w3)
    f = Add (e, b)
    g = GlobalAveragePool (f)
    h = Flatten (g)
    [classify] y = Gemm <transB = 1> (h, w4)
}
"""
FIXED = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,8,8,8] y)
<float[8,3,3,3] w1>
{
    [only] y = Conv <pads = [1,1,1,1]> (x, w1)
}
"""
IMAGE = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,3,8,8] y)
<float[8,3,3,3] w1, float[3,8,3,3] w2>
{
    [first] a = Conv <pads = [1,1,1,1]> (x, w1)
    b = Relu (a)
    [last] y = Conv <pads = [1,1,1,1]> (b, w2)
}
"""
GROWING = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,2,8,8] y)
<float[8,3,1,1] w1, float[16,8,1,1] w2, float[2,16,1,1] w3, int64[8] pads = {0,0,0,0,0,8,0,0}>
{
    [first] a = Conv (x, w1)
    b = Relu (a)
    [second] c = Conv (b, w2)
    d = Pad (b, pads)
    e = Add (c, d)
    [last] y = Conv (e, w3)
}
"""
ASKED = ("sensitivity", "net.onnx", "--calib", "x.npz")


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network with a residual stream, and images, in the current folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(read_model(NETWORK), "net.onnx")
    images = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)
    np.savez("x.npz", x=images)
    np.savez("labelled.npz", x=images[:30], labels=np.arange(30) % 10)
    return tmp_path


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_group_of_a_layer_by_its_name(lpcc: Callable[..., Any], net: Path) -> None:
    onnx.save(read_model(GROWING), "net.onnx")
    done = lpcc(*ASKED, "--shares", "0.5", "--processes", "1", "--csv", "t.csv")
    assert done.code == 0, done.err
    found = [line.split()[:3] for line in done.out.splitlines()[2:5]]
    assert found == [["first", "8", found[0][2]], ["second", "first", "8"], ["second", "second#2", "8"]]
    assert [row["group"] for row in rows("t.csv")] == ["first", "first", "second#2"]


def test_a_row_for_each_layer_and_why_others_stay(lpcc: Callable[..., Any], net: Path) -> None:
    done = lpcc(*ASKED, "--shares", "0.5,0.05,0.75", "--csv", "t.csv", "--json", "t.json", "--processes", "1")
    assert done.code == 0, done.err
    title, head, first, third, second, *rest = done.out.splitlines()
    assert title == "% of 10 images that change their class, when a share of one layer's channels goes"
    assert head.split() == ["layer", "together", "with", "channels", "-5", "%", "-50", "%", "-75", "%"]
    assert first.split()[:3] == ["first", "8", "-"]
    assert third.split()[:4] == ["third", "first", "8", "-"]
    assert third.split()[3:] == first.split()[2:]
    assert second.split()[:3] == ["second", "6", "-"]
    assert rest == [
        "-: less than one channel",
        "layers that stand together lose the same channels: each row is the cost of all of them",
        "classify stays whole: `y` is an output of the model",
    ]
    told = json.loads(Path("t.json").read_text())
    assert (told["metric"], told["images"], told["whole"]["agreement"]) == ("agreement", 10, 100)
    assert told["stays"] == {"classify": "`y` is an output of the model"}
    written = rows("t.csv")
    assert len(written) == len(told["layers"]) == 9
    for line, entry in zip(written, told["layers"], strict=True):
        assert (line["layer"], line["group"]) == (entry["layer"], entry["group"])
        assert [float(line[name]) for name in ("share", "channels", "removed", "noise", "agreement")] == [
            entry[name] for name in ("share", "channels", "removed", "noise", "agreement")
        ]
    assert [line["removed"] for line in written] == ["0", "4", "6", "0", "4", "6", "0", "3", "5"]
    noise = [float(line["noise"]) for line in written]
    assert noise[0] == noise[6] == 0
    assert 0 < noise[1] < noise[2]
    assert noise[:3] == noise[3:6]
    assert sorted(path.name for path in net.iterdir()) == ["labelled.npz", "net.onnx", "t.csv", "t.json", "x.npz"]


def test_labels_ask_for_top1(lpcc: Callable[..., Any], net: Path) -> None:
    done = lpcc(*ASKED, "--eval", "labelled.npz", "--shares", "0.5", "--json", "-", "--processes", "1")
    told = json.loads(done.out)
    assert (told["metric"], told["images"]) == ("top1", 30)
    assert told["layers"][0]["cost"] == pytest.approx(told["whole"]["top1"] - told["layers"][0]["top1"])
    lines = lpcc(*ASKED, "--eval", "labelled.npz", "--shares", "0.5", "--processes", "1").out
    assert lines.startswith(f"top1 lost of {told['whole']['top1']:.2f} on 30 images")
    agreed = lpcc(*ASKED, "--eval", "labelled.npz", "--shares", "0.5", "--metric", "agreement", "--processes", "1").out
    assert agreed.startswith("% of 30 images that change their class")


def test_other_outputs_are_judged_by_their_signal(lpcc: Callable[..., Any], net: Path) -> None:
    onnx.save(read_model(IMAGE), "net.onnx")
    done = lpcc(*ASKED, "--shares", "0.25,0.75", "--images", "16", "--json", "t.json", "--processes", "1")
    assert done.out.startswith("SQNR of the outputs in dB on 16 images")
    told = json.loads(Path("t.json").read_text())
    (a, b) = told["layers"]
    assert a["cost"] == a["sqnr"] > b["cost"] == b["sqnr"]
    assert (told["whole"]["sqnr"], a["agreement"]) == (None, None)  # infinite, and not applicable


def test_repair_and_criterion_count(lpcc: Callable[..., Any], net: Path) -> None:
    def noise(*options: str) -> list[float]:
        done = lpcc(*ASKED, "--shares", "0.5", "--json", "-", "--processes", "1", *options)
        return [entry["noise"] for entry in json.loads(done.out)["layers"]]

    assert all(mended < bare for mended, bare in zip(noise(), noise("--repair", "none"), strict=True))
    assert noise("--repair", "none", "--criterion", "l1") != noise(
        "--repair", "none", "--criterion", "geometric-median"
    )


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("sensitivity", "no.onnx", "--calib", "x.npz"), 3, "no.onnx: cannot be read"),
        ((*ASKED[:2],), 2, "--calib"),
        ((*ASKED, "--shares", "0.5,1"), 2, "--shares 0.5,1: expected numbers above 0 and below 1"),
        ((*ASKED, "--shares", "half"), 2, "not `half`"),
        ((*ASKED, "--shares", "nan"), 2, "not `nan`"),
        ((*ASKED, "--csv", "no/t.csv"), 2, "no/t.csv: cannot be written: there is no folder"),
        ((*ASKED, "--csv", "net.onnx"), 2, "--csv net.onnx: is an input of this command"),
        ((*ASKED, "--csv", "t", "--json", "t"), 2, "--json t: is another file of this command"),
        ((*ASKED, "--criterion", "l11"), 2, "--criterion l11: there is none of that name; did you mean"),
        ((*ASKED, "--repair", "well"), 2, "--repair well: there is none of that name"),
        ((*ASKED, "--metric", "top1"), 2, "--metric top1 needs labelled images: give --eval"),
        ((*ASKED, "--metric", "top1", "--eval", "x.npz"), 3, "x.npz: has no labels"),
        ((*ASKED, "--cache", "x.npz"), 2, "x.npz: cannot keep sensitivities there"),
        (("sensitivity", "net.onnx", "--calib", "no.npz"), 3, "no.npz"),
        (("sensitivity", "net.onnx", "--calib", "wrong.npz"), 3, "wrong.npz"),
        ((*ASKED, "--eval", "far.npz"), 3, "label 10 is none of the model's 10 classes"),
        (("sensitivity", "fixed.onnx", "--calib", "x.npz"), 4, "no channel of the network can go: `x` is an input"),
        ((*ASKED, "--pipeline", "nosuch"), 2, "unknown pass `nosuch`"),
    ],
)
def test_refused(lpcc: Callable[..., Any], net: Path, options: tuple[str, ...], code: int, message: str) -> None:
    onnx.save(read_model(FIXED), "fixed.onnx")
    np.savez("wrong.npz", x=np.zeros((2, 3, 9, 9), np.float32))
    np.savez("far.npz", x=np.zeros((2, 3, 8, 8), np.float32), labels=np.array([0, 10]))
    before = {path.name: path.read_bytes() for path in net.iterdir()}
    done = lpcc(*options)
    assert (done.code, message in done.error) == (code, True), done.err
    assert {path.name: path.read_bytes() for path in net.iterdir()} == before


def test_known_trials_are_not_measured_again(
    lpcc: Callable[..., Any], net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lpcc.sensitivity import Bench

    judged = []
    values = Bench.values
    monkeypatch.setattr(Bench, "values", lambda self, trial: (judged.append(trial), values(self, trial))[1])
    again = (*ASKED, "--cache", "kept", "--processes", "1", "--shares")
    first = lpcc(*again, "0.25,0.5")
    assert len(judged) == 1 + 2 * 2  # `third` goes with `first`
    assert lpcc(*again, "0.5,0.250").out == first.out
    assert len(judged) == 5
    lpcc(*again, "0.25,0.5,0.75")
    assert [(trial.layer, trial.choice) for trial in judged[5:]] == [("first", "0.75"), ("second", "0.75")]


class TestStopped:
    """In a process of its own, with two that measure."""

    SHARES = ",".join(f"{place / 16}" for place in range(1, 16))

    @pytest.fixture
    def journal(self, net: Path) -> Path:
        """Where outcomes are kept."""
        return net / "kept"

    def start(self) -> subprocess.Popen[str]:
        arguments = (*ASKED, "--cache", "kept", "--csv", "t.csv", "--shares", self.SHARES, "--processes", "2")
        environment = {**os.environ, "PYTHONPATH": ROOT}
        command = [sys.executable, "-m", "lpcc", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def lines(self, journal: Path) -> list[str]:
        texts = [path.read_text() for path in journal.glob("*.jsonl")]
        return [line for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, journal: Path, running: subprocess.Popen[str]) -> list[str]:
        for _ in range(3000):
            if len(found := self.lines(journal)) >= 2 or running.poll() is not None:
                return found
            time.sleep(0.01)
        raise AssertionError("nothing was measured")

    def test_goes_on_after_a_kill(self, lpcc: Callable[..., Any], net: Path, journal: Path) -> None:
        running = self.start()
        self.wait_for(journal, running)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        kept = self.lines(journal)
        assert 2 <= len(kept) < 20
        assert not Path("t.csv").exists()
        done = self.start()
        out, _ = done.communicate(timeout=120)
        assert done.returncode == 0
        lines = self.lines(journal)
        assert lines[: len(kept)] == kept
        assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 1 + 7 + 5
        whole = lpcc(*ASKED, "--csv", "u.csv", "--shares", self.SHARES, "--processes", "1")
        assert (Path("u.csv").read_bytes(), whole.out) == (Path("t.csv").read_bytes(), out)

    def test_an_interrupt_ends_it_at_once(self, net: Path, journal: Path) -> None:
        running = self.start()
        self.wait_for(journal, running)
        running.send_signal(signal.SIGINT)  # to it alone, not to those that measure
        _, err = running.communicate(timeout=60)
        assert (running.returncode, err) == (130, "lpcc: interrupted\n")
        assert 2 <= len(self.lines(journal)) < 1 + 7 + 5
        assert not Path("t.csv").exists()
