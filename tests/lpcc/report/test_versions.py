from __future__ import annotations

from importlib.metadata import version

from lpcc import __version__
from lpcc.report.versions import FORMAT, versions


def test_versions() -> None:
    found = versions()
    assert (found["lpcc"], found["report"], found["onnx"]) == (__version__, FORMAT, version("onnx"))
    assert all(found.values())
