"""Where the arm64 runtime lies: a folder with a Debian root (``root``) and Python packages (``site``)."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lpcc.errors import UsageError

QEMU = "qemu-aarch64"
GET_QEMU = f"{QEMU} is not installed: `apt-get install qemu-user` (Debian, Ubuntu) or `dnf install qemu-user` (Fedora)"
GET_FOLDER = "`lpcc emulator install` sets it up; LPCC_EMULATOR names another folder"


@dataclass(frozen=True)
class Folder:
    """A folder that holds, or is to hold, Python, numpy and onnxruntime for arm64."""

    path: Path

    @staticmethod
    def default() -> Folder:
        """The one that the environment variable LPCC_EMULATOR names, else ``lpcc/arm64`` in the user's cache."""
        named = os.environ.get("LPCC_EMULATOR")
        return Folder(Path(named).expanduser().absolute() if named else cache() / "arm64")

    @property
    def root(self) -> Path:
        """What the emulated program sees as ``/`` before the host's files."""
        return self.path / "root"

    @property
    def site(self) -> Path:
        """The Python packages."""
        return self.path / "site"

    @property
    def python(self) -> Path | None:
        """The arm64 Python; None where there is none."""
        return next(iter(sorted(self.root.glob("usr/bin/python3.[0-9]*"))), None)

    @property
    def onnxruntime(self) -> str | None:
        """The version of the arm64 onnxruntime; None where there is none."""
        names = [path.name for path in self.site.glob("onnxruntime-*.dist-info")]
        return names[0].removesuffix(".dist-info").partition("-")[2] if names else None

    @property
    def ready(self) -> bool:
        """Whether everything is there."""
        return self.python is not None and self.onnxruntime is not None

    def checked_python(self) -> Path:
        """The arm64 Python.

        Raises:
            UsageError: the folder is not complete; the message says how to make it.
        """
        if self.python is None or self.onnxruntime is None:
            raise UsageError(f"{self.path}: holds no arm64 runtime: {GET_FOLDER}")
        return self.python


def cache() -> Path:
    """The folder of lpcc in the user's cache (XDG_CACHE_HOME, else ``~/.cache``)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "lpcc"


def qemu() -> Path:
    """The emulator's program.

    Raises:
        UsageError: it is not installed; the message says how to get it.
    """
    found = shutil.which(QEMU)
    if found is None:
        raise UsageError(GET_QEMU)
    return Path(found)


def qemu_version(program: Path) -> tuple[int, int]:
    """Major and minor version of QEMU; (0, 0) where it does not tell."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    words = done.stdout.split("\n", 1)[0].split()
    numbers = words[2].split(".") if len(words) > 2 else []
    return (int(numbers[0]), int(numbers[1])) if len(numbers) > 1 and numbers[0].isdigit() else (0, 0)
