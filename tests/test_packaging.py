"""The package as its users get it: what pyproject.toml lists, the wheel, the source archive, installed and not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import lpcc

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "fashion_mnist"
HOMES = {"lpcc": ROOT / "lpcc", "lpcc.passes": ROOT / "passes", "lpcc.targets": ROOT / "targets"}
NOT_SOURCES = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo", "lpcc-reproducer-*")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources(suffix: str) -> dict[str, Path]:
    """Files of the package with a suffix, by their path when installed: ``lpcc/passes/quantize/emit.py``."""
    found = {}
    for home, folder in HOMES.items():
        for path in folder.rglob(f"*{suffix}"):
            found[f"{home.replace('.', '/')}/{path.relative_to(folder).as_posix()}"] = path
    return found


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, outside of any Python environment of its caller's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: building writes into them."""
    folder = tmp_path_factory.mktemp("copy") / "checkout"
    shutil.copytree(ROOT, folder, ignore=NOT_SOURCES)
    return folder


def build(checkout: Path, kind: str) -> Path:
    """The archive of a kind, ``wheel`` or ``sdist``, built with the setuptools that is installed."""
    script = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    name = run(sys.executable, "-c", script, cwd=checkout).stdout.splitlines()[-1]
    return checkout / "dist" / name


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build(checkout, "wheel")


def environment(folder: Path) -> Path:
    """The interpreter of a new environment: what lpcc depends on is borrowed from this one, lpcc is not there."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", script, cwd=folder).stdout.strip())
    borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))  # whose own .pth files are not read
    return python


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment without lpcc."""
    return environment(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment of its own, with the wheel installed."""
    folder = tmp_path_factory.mktemp("installed")
    python = environment(folder)
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    return python


class TestLists:
    def test_packages_are_those_on_disk(self) -> None:
        on_disk = {Path(name).parent.as_posix().replace("/", ".") for name in sources(".py")}
        listed = project()["tool"]["setuptools"]["packages"]
        assert sorted(listed) == sorted(on_disk)

    def test_every_folder_of_modules_is_a_package(self) -> None:
        for path in sources(".py").values():
            assert (path.parent / "__init__.py").is_file(), path.parent

    def test_version_is_stated_twice_alike(self) -> None:
        assert project()["project"]["version"] == lpcc.__version__

    def test_public_names_are_there(self) -> None:
        for name in lpcc.__all__:
            assert getattr(lpcc, name) is not None

    def test_unknown_name(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'absent'"):
            _ = lpcc.absent


class TestArchives:
    def test_wheel_has_every_file_of_the_package(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        suffixes = (".py", ".toml", ".csv", ".json", ".c", ".h", ".ld")
        wanted = set().union(*(sources(suffix) for suffix in suffixes)) | {"lpcc/py.typed"}
        assert packed == wanted

    def test_wheel_names_its_licence_and_command(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
            assert "licenses/LICENSE" in names
            assert "lpcc = lpcc.cli:main" in archive.read(names["entry_points.txt"]).decode()

    def test_source_archive_has_what_the_tests_need(self, checkout: Path) -> None:
        with tarfile.open(build(checkout, "sdist")) as archive:
            packed = {name.partition("/")[2] for name in archive.getnames()}
        folders = ("lpcc", "passes", "targets", "golden", "tests", "examples", "docs", "benchmarks", ".ci")
        wanted = {
            path.relative_to(checkout).as_posix()
            for folder in folders
            for path in (checkout / folder).rglob("*")
            if path.is_file()
        }
        wanted |= {path.name for path in checkout.iterdir() if path.is_file()}
        assert wanted - packed == set()


class TestInstalled:
    def test_commands(self, installed: Path, tmp_path: Path) -> None:
        command = installed.with_name("lpcc")
        assert run(command, "--version", cwd=tmp_path).stdout == f"lpcc {lpcc.__version__}\n"
        assert "arm-cortex-a72" in run(command, "targets", cwd=tmp_path).stdout
        assert "fold-bn" in run(command, "passes", cwd=tmp_path).stdout

    def test_modules_are_those_installed(self, installed: Path, tmp_path: Path) -> None:
        script = (
            "import lpcc, lpcc.passes, lpcc.targets, lpcc.passes.quantize\n"
            "for m in (lpcc, lpcc.passes, lpcc.targets, lpcc.passes.quantize): print(m.__file__)\n"
            "print(len(lpcc.__path__))"
        )
        *files, homes = run(installed, "-c", script, cwd=tmp_path).stdout.splitlines()
        assert all(Path(file).is_relative_to(installed.parents[1]) for file in files)
        assert homes == "1"  # the checkout's own trick is off

    def test_optimize(self, installed: Path, tmp_path: Path) -> None:
        for file in ("model.onnx", "calib.npz", "preprocess.toml"):
            shutil.copy(EXAMPLE / file, tmp_path)
        options = ["--target", "arm-cortex-a", "--calib", "calib.npz", "--preprocess", "preprocess.toml"]
        said = run(installed.with_name("lpcc"), "optimize", "model.onnx", *options, cwd=tmp_path).stdout
        assert "result: the optimised model" in said
        assert (tmp_path / "model.arm-cortex-a.onnx").stat().st_size < (tmp_path / "model.onnx").stat().st_size / 2


class TestCheckout:
    """The sources as they are, installed nowhere: tests run so after a plain clone."""

    def test_pytest(self, bare: Path, checkout: Path) -> None:
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        ended = run(bare, "-m", "pytest", *options, "tests/targets", "tests/lpcc/report/test_units.py", cwd=checkout)
        assert " passed" in ended.stdout

    def test_command(self, bare: Path, checkout: Path) -> None:
        script = "import lpcc.passes; print(lpcc.passes.__file__)"
        file = run(bare, "-c", script, cwd=checkout).stdout.strip()
        assert Path(file) == checkout / "passes" / "__init__.py"
        assert "quantize" in run(bare, "-m", "lpcc", "passes", cwd=checkout).stdout


class TestImports:
    """What costs time is imported by what uses it."""

    HEAVY = (
        "numpy",
        "onnx",
        "onnx_graphsurgeon",
        "onnxruntime",
        "networkx",
        "tensorly",
        "torch",
        "PIL",
        "rich",
        "scipy",
    )

    def loaded(self, statement: str, tmp_path: Path) -> set[str]:
        script = f"{statement}\nimport sys\nprint(*sys.modules)"
        ended = run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(ROOT))
        return set(ended.stdout.splitlines()[-1].split())

    def test_package(self, tmp_path: Path) -> None:
        assert self.loaded("import lpcc", tmp_path).isdisjoint({*self.HEAVY, "typer"})

    def test_command_line(self, tmp_path: Path) -> None:
        assert self.loaded("import lpcc.cli.app", tmp_path).isdisjoint(self.HEAVY)

    def test_library(self, tmp_path: Path) -> None:
        heavy = {"networkx", "tensorly", "torch", "PIL", "rich", "scipy", "onnxruntime"}
        assert self.loaded("import lpcc.driver, lpcc.passes", tmp_path).isdisjoint(heavy)

    def test_help_is_quick(self, tmp_path: Path) -> None:
        script = (
            "import resource, subprocess, sys\n"
            "subprocess.run([sys.executable, '-m', 'lpcc', '--help'], stdout=subprocess.DEVNULL, check=True)\n"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "print(used.ru_utime + used.ru_stime)"
        )
        seconds = [
            float(run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(ROOT)).stdout) for _ in range(3)
        ]
        assert min(seconds) < 0.4
