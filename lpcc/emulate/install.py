"""Making the arm64 runtime: Debian packages and PyPI wheels, fetched by their own clients into a folder of one's own.

The machine's own package state is not touched, and no privilege needed. The folder appears whole or not at all.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lpcc.emulate.cpu import CPUS
from lpcc.emulate.folder import GET_QEMU, QEMU, Folder, qemu
from lpcc.emulate.plugin import GET_COMPILER, compiler
from lpcc.emulate.process import Guest
from lpcc.errors import UsageError

ONNXRUNTIME = "1.27.0"
"""The last version that runs under QEMU 7.2: later ones crash on import there."""

_DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
"""With what they depend on, all that Python, numpy and onnxruntime load."""

_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")

Progress = Callable[[str, int, int], None]
"""Told what is being done, the steps done, and their total (0 where unknown)."""


@dataclass(frozen=True)
class Tool:
    """A program that the emulator or its set-up needs."""

    name: str
    present: bool
    remedy: str
    """What to do where it is missing."""
    to_install: bool = True
    """Whether the set-up cannot do without it."""


def tools() -> tuple[Tool, ...]:
    """What is needed, and whether it is there."""
    return (
        Tool(QEMU, shutil.which(QEMU) is not None, GET_QEMU),
        Tool(
            "apt-get",
            shutil.which("apt-get") is not None,
            "apt-get is missing: the set-up needs Debian's package tools",
        ),
        Tool(
            "dpkg-deb",
            shutil.which("dpkg-deb") is not None,
            "dpkg-deb is missing: the set-up needs Debian's package tools",
        ),
        Tool("pip", importlib.util.find_spec("pip") is not None, f"pip is missing: `{sys.executable} -m ensurepip`"),
        Tool("C compiler", compiler() is not None, GET_COMPILER, to_install=False),
    )


def install(folder: Folder, progress: Progress) -> bool:
    """Make the arm64 runtime in `folder`; False if it was there already.

    Takes a minute, 35 MB of downloads and 200 MB of disk. Raises UsageError when a tool is missing, a download fails,
    the folder holds something else, or what was made does not run.
    """
    if folder.ready and folder.onnxruntime == ONNXRUNTIME:
        return False
    missing = [tool for tool in tools() if tool.to_install and not tool.present]
    if missing:
        raise UsageError("; ".join(tool.remedy for tool in missing))
    if folder.path.exists() and not folder.ready and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise UsageError(f"{folder.path}: is there and holds no arm64 runtime: choose another --folder, or remove it")
    try:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".lpcc-arm64-", dir=folder.path.parent) as scratch:
            made = Folder(Path(scratch) / "made")
            _debian(made, Path(scratch), progress)
            _wheels(made, Path(scratch), progress)
            progress("trying it", 0, 0)
            Guest(qemu(), made, CPUS["cortex-a72"], None).close()
            if folder.path.exists():
                folder.path.rename(Path(scratch) / "old")
            made.path.rename(folder.path)
    except OSError as error:
        raise UsageError(f"{folder.path}: cannot be written: {error.strerror or error}") from None
    return True


def _debian(made: Folder, scratch: Path, progress: Progress) -> None:
    """Fetch and unpack Python for arm64 and the libraries it needs."""
    state = scratch / "apt"
    archives = state / "cache" / "archives"
    for path in (state / "lists" / "partial", archives / "partial", made.root):
        path.mkdir(parents=True)
    settings = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state / "cache",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
    progress("reading Debian's lists of packages", 0, 0)
    _run([*apt, "update"])
    progress("fetching Debian packages", 0, 0)
    _run([*apt, "install", "--yes", "--no-install-recommends", "--download-only", *_DEBIAN])
    packages = sorted(archives.glob("*.deb"))
    for done, package in enumerate(packages):
        progress("unpacking Debian packages", done, len(packages))
        _run(["dpkg-deb", "--extract", str(package), str(made.root)])
    if not (made.root / "lib").exists():  # newer releases have all of it in usr/lib, and a link that no package holds
        (made.root / "lib").symlink_to("usr/lib")
    (made.path / "packages.txt").write_text("".join(f"{package.stem}\n" for package in packages))


def _wheels(made: Folder, scratch: Path, progress: Progress) -> None:
    """Fetch and unpack numpy and onnxruntime for arm64."""
    if made.python is None:
        raise UsageError("the package sources of this machine gave no Python for arm64")
    version = made.python.name.removeprefix("python")
    wheels = scratch / "wheels"
    made.site.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(wheels)]
    pip += [word for name in _PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    pip += ["--python-version", version, "--implementation", "cp", "--only-binary=:all:"]
    pip += [word for abi in (f"cp{version.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)]
    progress("fetching onnxruntime and numpy", 0, 0)
    _run([*pip, f"onnxruntime=={ONNXRUNTIME}", "numpy>=2,<3"])
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(made.site)


def _run(command: Sequence[str]) -> None:
    """Run a client; its first line of complaint becomes the error."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    said = [line for line in (*done.stderr.splitlines(), *done.stdout.splitlines()) if line.strip()]
    errors = [line for line in said if line.startswith(("E:", "ERROR:", "dpkg-deb: error"))]
    what = " ".join(word for word in command[:4] if not word.startswith(("-", "/")))
    raise UsageError(f"{what} failed: {(errors or said or ['it gives no reason'])[0].strip()}")
