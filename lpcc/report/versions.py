"""Which versions had a part in a result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from lpcc import __version__

FORMAT = "1"
"""Version of the report's JSON form: raised when a key changes its meaning or goes; new keys do not raise it."""

_LIBRARIES = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")


def versions() -> dict[str, str]:
    """Versions of lpcc, the report's form, Python and the libraries that make results."""
    found = {"lpcc": __version__, "report": FORMAT, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found
