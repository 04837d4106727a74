from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from lpcc.cli.app import run
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,H,W] x) => (float[N,10] y)
<float[8,3,3,3] w1, float[8] scale, float[8] bias, float[8] mean, float[8] var,
 float[8,8,3,3] w2, float[10,8] w3, float[10] b3>
{
    c = Conv <pads = [1,1,1,1]> (x, w1)
    n = BatchNormalization (c, scale, bias, mean, var)
    r = Relu (n)
    d = Conv <pads = [1,1,1,1]> (r, w2)
    s = Add (d, r)
    i = Identity (s)
    g = GlobalAveragePool (i)
    f = Flatten (g)
    y = Gemm <transB = 1> (f, w3, b3)
}
"""


WIDE = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,32,14,14] x) => (float[N,10] y)
<float[64,32,3,3] w1, float[64,64,3,3] w2, float[10,64] w3>
{
    [first] c = Conv <pads = [1,1,1,1]> (x, w1)
    [active] r = Relu (c)
    [second] d = Conv <pads = [1,1,1,1]> (r, w2)
    [sum] s = Add (d, r)
    [pool] g = GlobalAveragePool (s)
    [flat] f = Flatten (g)
    [classify] y = Gemm <transB = 1> (f, w3)
}
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr; fails if there are none or several."""
        (line,) = self.err.splitlines()
        return line


@pytest.fixture
def lpcc(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command line in this process."""

    def call(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small network in the current folder, which is a temporary one."""
    monkeypatch.chdir(tmp_path)
    onnx.save(read_model(NETWORK), tmp_path / "net.onnx")
    return Path("net.onnx")


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of layers with names that int8 pays for, with images in ``x.npz``, in the current folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(read_model(WIDE), tmp_path / "wide.onnx")
    np.savez("x.npz", x=np.random.default_rng(0).standard_normal((8, 32, 14, 14)).astype(np.float32))
    return Path("wide.onnx")
