"""Where files may be written: in place of other files, through links, never in place of devices and pipes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lpcc.door import files
from lpcc.errors import UsageError


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="pipe: cannot be written: is a device or a pipe"):
        files.write_bytes({pipe: [b"x"]})
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.onnx"
    link.symlink_to(Path("real") / "model.onnx")
    for content in (b"first", b"second"):  # the link leads nowhere at first
        files.write_bytes({link: [content]})
        assert link.is_symlink()
        assert (tmp_path / "real" / "model.onnx").read_bytes() == content
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["model.onnx"]
