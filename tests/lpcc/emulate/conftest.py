"""An emulator where there is one, and a stand-in for QEMU that speaks the guest's protocol."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from lpcc.emulate import CLASSES, Emulator, Folder
from lpcc.errors import UsageError
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[1,3,16,16] x) => (float[1,10] y)
<float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[10,8] w3, float[10] b3>
{
    c = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (c)
    d = Conv <pads = [1,1,1,1]> (r, w2)
    s = Add (d, r)
    g = GlobalAveragePool (s)
    f = Flatten (g)
    y = Gemm <transB = 1> (f, w3, b3)
}
"""

STAND_IN = """#!{python} -E
import json, os, sys, time
counts = [word.partition("out=")[2] for word in sys.argv if "out=" in word]
if counts:
    open(counts[0], "w").write("classes {classes}\\n")
if "--version" in sys.argv:
    print("qemu-aarch64 version 7.2.22 (Debian 1:7.2)")
    sys.exit()
print(json.dumps({{"onnxruntime": "1.27.0", "python": "3.11.2"}}), flush=True)
for line in sys.stdin:
    {answer}
"""


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    """The emulator; skips, with the reason, where there is none or where it cannot count."""
    try:
        found = Emulator.find()
        found.plugin()
    except UsageError as error:
        pytest.skip(str(error))
    return found


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    return read_model(NETWORK)


@pytest.fixture
def ready(tmp_path: Path) -> Folder:
    """A folder that looks like one with the arm64 runtime."""
    folder = Folder(tmp_path / "arm64")
    (folder.root / "usr/bin").mkdir(parents=True)
    (folder.root / "usr/bin/python3.11").touch()
    (folder.site / "onnxruntime-1.27.0.dist-info").mkdir(parents=True)
    return folder


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Path]:
    """Makes a program that is started like QEMU and treats each request by the given line of Python."""

    def make(answer: str, classes: str = " ".join(CLASSES)) -> Path:
        path = tmp_path / "qemu-aarch64"
        path.write_text(STAND_IN.format(python=sys.executable, classes=classes, answer=answer))
        path.chmod(0o755)
        return path

    return make
