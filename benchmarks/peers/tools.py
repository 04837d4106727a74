"""The tools that are compared, the environments they run in, and their files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
_TORCH = ("torch==2.13.0",)  # first, so that nothing else brings in another one with gigabytes for GPUs


@dataclass(frozen=True)
class Tool:
    """A tool with its settings. Without an environment it runs in lpcc's own."""

    name: str
    script: str
    """In the folder `inside`."""
    variant: str = ""
    environment: str | None = None
    prepared: bool = True
    """Whether it is given the model prepared by `inside/prepare.py` and not the original."""


ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "nncf": (("nncf==3.4.0", "onnx", "onnxruntime==1.31.0"),),
    "quark": (_TORCH, ("amd-quark==0.13", "onnxruntime==1.28.0", *_TORCH)),
    "aimet": (_TORCH, ("aimet-onnx==2.42.0", "onnxruntime==1.31.0", *_TORCH)),
    "neural-compressor": (
        ("neural-compressor==2.6", "onnx==1.16.2", "onnxruntime==1.18.1", "onnxruntime-extensions", "numpy<2"),
        ("setuptools<81", "six"),  # which it imports without asking for them
    ),
}
"""What pip installs into each environment, in steps."""

TOOLS = (
    Tool("onnxruntime min-max", "for_onnxruntime.py", "MinMax"),
    Tool("onnxruntime percentile", "for_onnxruntime.py", "Percentile"),
    Tool("NNCF mixed", "for_nncf.py", "MIXED", "nncf"),
    Tool("Quark", "for_quark.py", "U8S8_AAWS", "quark"),
    Tool("Quark AdaRound", "for_quark.py", "U8S8_AAWS_ADAROUND", "quark"),
    Tool("AIMET min-max", "for_aimet.py", "min_max", "aimet"),
    Tool("AIMET enhanced", "for_aimet.py", "tf_enhanced", "aimet"),
    Tool("AIMET CLE", "for_aimet.py", "tf_enhanced CLE", "aimet"),
    Tool("neural-compressor", "for_neural_compressor.py", "", "neural-compressor"),
)


@dataclass(frozen=True)
class Made:
    """What came of quantising a model with a tool."""

    path: Path
    seconds: float
    bytes: int
    """Peak memory of the largest process."""
    error: str | None
    """The reason in one line if there is no file."""


@dataclass(frozen=True)
class Workshop:
    """Makes the tools' files within limits, in a folder where environments and files stay."""

    folder: Path
    seconds: float
    gigabytes: float

    def made(self, tool: Tool, model: Path, images: dict[str, np.ndarray], *, name: str, reuse: bool) -> Made:
        """The tool's file for a model and calibration images; the one of an earlier run where it may be reused."""
        place = self.folder / "files" / name
        place.mkdir(parents=True, exist_ok=True)
        result = place / f"{tool.name.replace(' ', '-')}.onnx"
        note = result.with_suffix(".json")
        if reuse and note.is_file():
            return Made(result, **json.loads(note.read_text()))
        result.unlink(missing_ok=True)
        try:
            python = self._python(tool.environment)
            source = self._prepared(model, place) if tool.prepared else model
            found = self._run(python, tool, source, images, result)
        except InstallError as error:
            found = Made(result, 0.0, 0, str(error))
        kept = asdict(found)
        del kept["path"]
        note.write_text(json.dumps(kept))
        return found

    def _run(self, python: Path, tool: Tool, model: Path, images: dict[str, np.ndarray], result: Path) -> Made:
        with tempfile.TemporaryDirectory(prefix="lpcc-peer-") as scratch:
            data, written = Path(scratch) / "images.npz", Path(scratch) / "result.onnx"
            np.savez(data, **images)
            limits = [str(self.seconds), str(self.gigabytes)]
            script = [str(python), str(HERE / "inside" / tool.script)]
            done = subprocess.run(
                [sys.executable, str(HERE / "measured.py"), *limits, *script, str(model), data, written, tool.variant],
                cwd=scratch,
                env=_environment(tool),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
            *log, last = done.stdout.strip().splitlines()
            result.with_suffix(".log").write_text("\n".join(log))
            took = json.loads(last)
            error = None
            if took["status"] == 124:
                error = f"not done after {self.seconds:.0f} s"
            elif took["status"] or not written.is_file():
                error = _reason(log) or f"exit status {took['status']}"
            else:
                shutil.copyfile(written, result)
        return Made(result, took["seconds"], took["bytes"], error)

    def _prepared(self, model: Path, place: Path) -> Path:
        """The model as all peers get it, made once."""
        result = place / "prepared.onnx"
        if not result.is_file() or result.stat().st_mtime < model.stat().st_mtime:
            command = [sys.executable, str(HERE / "inside" / "prepare.py"), str(model), str(result)]
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return result

    def _python(self, environment: str | None) -> Path:
        """The interpreter of an environment, which is made if it is not there as it is asked for."""
        if environment is None:
            return Path(sys.executable)
        steps = ENVIRONMENTS[environment]
        folder = self.folder / "environments" / environment
        mark = folder / "installed.json"
        python = folder / "bin" / "python"
        wanted = json.dumps(steps)
        if mark.is_file() and mark.read_text() == wanted:
            return python
        shutil.rmtree(folder, ignore_errors=True)
        print(f"installing {environment} ...", file=sys.stderr, flush=True)
        _install([sys.executable, "-m", "venv", str(folder)])
        for step in steps:
            _install([str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", *step])
        mark.write_text(wanted)
        return python


class InstallError(Exception):
    """An environment could not be made."""


def _install(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise InstallError(f"not installed: {_reason(done.stdout.splitlines())}")


def _environment(tool: Tool) -> dict[str, str]:
    """One thread, as `measured.py` gives one core; for lpcc's own interpreter, the checkout that runs this."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if tool.environment is None:
        found["PYTHONPATH"] = str(HERE.parents[1])
    else:
        found.pop("PYTHONPATH", None)
    return found


def _reason(log: Sequence[str]) -> str:
    """The last line of a log that names an error, else its last line."""
    lines = [line.strip() for line in log if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] or line.startswith("ERROR")]
    return (named or lines or [""])[-1][:200]
