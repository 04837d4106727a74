"""The counting plugin: compiled from this package's C source when first needed, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lpcc.emulate.folder import cache, qemu_version
from lpcc.errors import UsageError

_SOURCES = ("instructions.c", "a64.h")
GET_COMPILER = "a C compiler is needed to count instructions: `apt-get install gcc libc6-dev`, or set CC"


def compiler() -> str | None:
    """The C compiler: what CC names, else cc, gcc or clang; None where there is none."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((found for name in names if (found := shutil.which(name))), None)


def plugin(qemu: Path) -> Path:
    """The compiled plugin for that emulator.

    Raises:
        UsageError: there is no C compiler, it fails, or the cache cannot be written.
    """
    api = _api(qemu_version(qemu))
    here = Path(__file__).parent
    digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in _SOURCES)).hexdigest()[:12]
    path = cache() / f"instructions-{digest}-{api}.so"
    if path.is_file():
        return path
    cc = compiler()
    if cc is None:
        raise UsageError(GET_COMPILER)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / "instructions.so"
            command = [cc, "-O2", "-shared", "-fPIC", f"-DPLUGIN_API={api}", "-o", str(built)]
            done = subprocess.run([*command, str(here / _SOURCES[0])], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
                raise UsageError(f"{cc} cannot compile the counting plugin: {reason}")
            built.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: the counting plugin cannot be written: {error.strerror}") from None
    return path


def _api(version: tuple[int, int]) -> int:
    """The version of the plugin interface that a QEMU speaks: 1 up to 8.2, 3 from 9.1 on.

    Raises:
        UsageError: it speaks neither.
    """
    if version < (4, 2) or (9, 0) <= version < (9, 1):
        raise UsageError(f"QEMU {version[0]}.{version[1]} cannot count instructions: 4.2 to 8.2 can, and 9.1 on")
    return 1 if version < (9, 0) else 3
