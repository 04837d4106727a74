"""The example of a plugin, installed as its users would, into a folder of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from lpcc.testing.golden import read_model

ROOT = Path(__file__).parents[2]
NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,16,16] x) => (float[N,4] y)
<float[4,3,3,3] w, float low = {0}, float high = {6}>
{
    c = Conv (x, w)
    r = Clip (c, low, high)
    g = GlobalAveragePool (r)
    y = Flatten (g)
}
"""


def install(source: Path, into: Path) -> None:
    """Install a package without what it depends on and without a network."""
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", into, source], check=True)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin installed in it."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(
        ROOT / "examples" / "plugin", folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    install(folder / "source", folder / "site")
    return folder / "site"


def lpcc(*arguments: str | Path, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line with the packages in `site` installed."""
    path = os.pathsep.join([str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lpcc", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_pass_is_found(plugin: Path, tmp_path: Path) -> None:
    ended = lpcc("passes", "open-relu6", site=plugin, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("open-relu6 (approximate)\n\nReplace ReLU6 by ReLU")
    assert "open-relu6" in lpcc("passes", site=plugin, cwd=tmp_path).stdout


def test_without_the_plugin_there_is_no_such_pass(tmp_path: Path) -> None:
    ended = lpcc("passes", "open-relu6", site=tmp_path, cwd=tmp_path)
    assert ended.returncode == 2
    assert "unknown pass `open-relu6`" in ended.stderr


def test_target_is_found(plugin: Path, tmp_path: Path) -> None:
    ended = lpcc("targets", "show", "camera-board", site=plugin, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "made up for this example" in ended.stdout


def test_both_at_work(plugin: Path, tmp_path: Path) -> None:
    onnx.save(read_model(NETWORK), tmp_path / "net.onnx")
    images = 0.1 * np.random.default_rng(0).standard_normal((8, 3, 16, 16), np.float32)  # so small that nothing is cut
    np.savez(tmp_path / "calib.npz", x=images)
    arguments = ["optimize", "net.onnx", "-t", "camera-board", "-p", "exact,open-relu6", "--calib", "calib.npz"]
    ended = lpcc(*arguments, "-o", "out.onnx", site=plugin, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "1 ReLU6 replaced by ReLU" in ended.stdout
    operators = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert operators[:2] == ["Conv", "Relu"]


def test_commands_of_the_page(plugin: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "fashion_mnist" / "model.onnx", tmp_path / "net.onnx")
    for name in ("calib.npz", "preprocess.toml"):
        shutil.copy(ROOT / "examples" / "fashion_mnist" / name, tmp_path)
    (block,) = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs" / "plugins.md").read_text(), re.MULTILINE | re.DOTALL)
    first, *others = block.splitlines()
    assert first == "pip install ./examples/plugin"  # which the fixture did
    for command in others:
        program, *arguments = shlex.split(command)
        assert program == "lpcc"
        ended = lpcc(*arguments, site=plugin, cwd=tmp_path)
        assert ended.returncode == 0, f"{command}: {ended.stderr}"


@pytest.mark.parametrize(
    ("group", "name", "value", "command", "said"),
    [
        ("lpcc.passes", "mine", "clashing:Mine", "passes", "the pass name `fold-bn` is taken by lpcc.passes"),
        ("lpcc.passes", "mine", "clashing:named", "passes", "is not a subclass of lpcc.Pass"),
        ("lpcc.passes", "mine", "clashing:absent", "passes", "cannot be loaded"),
        ("lpcc.targets", "arm-cortex-a", "lpcc_camera_board:BOARD", "targets", "clashes with another one of that name"),
    ],
)
def test_clash_is_an_error(
    plugin: Path, tmp_path: Path, group: str, name: str, value: str, command: str, said: str
) -> None:
    site = tmp_path / "site"
    shutil.copytree(plugin, site)
    (site / "clashing.py").write_text(
        "from lpcc.pipeline import Fidelity, LocalPass\n"
        "named = 'no class'\n"
        "class Mine(LocalPass):\n"
        "    name = 'fold-bn'\n"
        "    fidelity = Fidelity.EXACT\n"
    )
    information = site / "clashing-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: clashing\nVersion: 1\n")
    (information / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    ended = lpcc(command, site=site, cwd=tmp_path)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
