"""Samples from an .npz file, read in a stream and never unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from lpcc.data.rows import LABELS, Rows, check_labels
from lpcc.data.source import Block
from lpcc.errors import DataError
from lpcc.runtime.spec import Array, shape_text


@dataclass(frozen=True)
class _Member:
    """An array in the file, as its header describes it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class NpzSource:
    """Arrays keyed by input name, samples on the first axis, and optionally ``labels``.

    A member is decompressed from its start as the samples are asked for, so that a pass holds one block in memory,
    whatever the size of the file. Names, types, shapes and labels are checked on opening, values as they are read.
    """

    def __init__(self, path: Path, rows: Rows) -> None:
        self.description = str(path)
        self._path = path
        self._rows = rows
        with self._file() as file:
            members = {name.removesuffix(".npy"): self._header(file, name) for name in file.namelist()}
            self._count = rows.check(self.description, {name: (m.dtype, m.shape) for name, m in members.items()})
            for spec in rows.specs:
                self._check_size(file, spec.name, members[spec.name])
            self._labels: Array | None = None
            if LABELS in members and all(spec.name != LABELS for spec in rows.specs):
                self._labels = self._read_labels(file, members[LABELS])
        self.labelled = self._labels is not None

    def __len__(self) -> int:
        return self._count

    def blocks(self, size: int) -> Iterator[Block]:
        """The samples in order, `size` at a time, fewer in the last block."""
        with self._file() as file, ExitStack() as stack:
            streams = {}
            for spec in self._rows.specs:
                stream = stack.enter_context(file.open(f"{spec.name}.npy"))
                streams[spec.name] = (stream, _read_header(stream))
            for start in range(0, self._count, size):
                stop = min(start + size, self._count)
                arrays = {name: self._take(name, s, m, stop - start) for name, (s, m) in streams.items()}
                labels = None if self._labels is None else self._labels[start:stop]
                yield Block(self._rows.feed(self.description, arrays, start), labels)

    @contextmanager
    def _file(self) -> Iterator[zipfile.ZipFile]:
        """The open file; what zipfile raises within becomes a DataError."""
        try:
            with zipfile.ZipFile(self._path) as file:
                yield file
        except zipfile.BadZipFile as error:
            reason = "damaged" if zipfile.is_zipfile(self._path) else self._kind()
            raise DataError(f"{self._path}: {reason} ({error})") from None
        except (zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{self._path}: cannot read the archive: {error}") from None
        except OSError as error:
            raise DataError(f"{self._path}: cannot read the data: {error.strerror or error}") from None

    def _kind(self) -> str:
        with self._path.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                return "a bare .npy array; save it as .npz, keyed by input name, with np.savez(path, input=array)"
        return "not an .npz file"

    def _header(self, file: zipfile.ZipFile, name: str) -> _Member:
        try:
            with file.open(name) as stream:
                return _read_header(stream)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{self._path}: member `{name}` is no NumPy array that lpcc reads: {reason}") from None

    def _check_size(self, file: zipfile.ZipFile, name: str, member: _Member) -> None:
        promised = math.prod(member.shape) * member.dtype.itemsize
        held = file.getinfo(f"{name}.npy").file_size
        if promised >= held:  # the header takes some bytes too
            raise DataError(
                f"{self._path}: array `{name}` claims {shape_text(member.shape)} of {member.dtype} "
                f"({promised:,} bytes) but holds {held:,} bytes"
            )

    def _read_labels(self, file: zipfile.ZipFile, member: _Member) -> Array:
        # Type and length first, so that only a file of the right size is ever read whole.
        blank = np.broadcast_to(np.zeros((), np.int8 if member.dtype.hasobject else member.dtype), member.shape)
        if member.dtype.hasobject:
            raise DataError(f"{self._path}: `{LABELS}` holds pickled Python objects, which are never read")
        check_labels(self.description, blank, self._count)
        self._check_size(file, LABELS, member)
        with file.open(f"{LABELS}.npy") as stream:
            _read_header(stream)
            return check_labels(self.description, self._take(LABELS, stream, member, self._count), self._count)

    def _take(self, name: str, stream: IO[bytes], member: _Member, count: int) -> Array:
        shape = (count, *member.shape[1:])
        wanted = math.prod(shape) * member.dtype.itemsize
        data = stream.read(wanted)
        if len(data) != wanted:
            raise DataError(f"{self._path}: array `{name}` ends early")
        return np.frombuffer(data, member.dtype).reshape(shape)


def _read_header(stream: IO[bytes]) -> _Member:
    """Read the header of an .npy stream, which is left at its data. Raises ValueError."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"format version {version[0]}.{version[1]} has field names, which inputs have not")
    if fortran and len(shape) > 1:
        raise ValueError("stored in Fortran order, samples last; save np.ascontiguousarray of it")
    if any(size < 0 for size in shape):
        raise ValueError(f"negative size in shape {shape}")
    return _Member(dtype, shape)
