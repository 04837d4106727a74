"""Factors that took long, kept in files: a run that was stopped goes on, a second one is quick."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lpcc.door.files import write_bytes
from lpcc.errors import UsageError
from lpcc.passes.factorize.factors import Factors, Rank, Stage
from lpcc.passes.factorize.form import Form
from lpcc.passes.factorize.methods import METHODS
from lpcc.passes.factorize.methods.base import Decomposition

Array = np.ndarray[Any, Any]

_VERSION = 1
"""Of what the methods compute: files of other versions are not read."""


def decompose(method: str, form: Form, moments: Array | None = None, cache: str = "") -> Decomposition:
    """A layer by a method of `METHODS`; with `cache`, a folder, what takes long is read from there, or written to it.

    Raises:
        Declined: the method says nothing of such a layer.
    """
    found = METHODS[method](form, moments)
    return Kept(found, Path(cache)) if cache and not found.is_quick else found


class Kept(Decomposition):
    """What another decomposition finds, in a file for each rank.

    Its name says the weights, the moments, the method and the rank that it is of; a file that cannot be read counts as
    none. Files appear whole or not at all. Raises UsageError where one cannot be written.
    """

    def __init__(self, found: Decomposition, folder: Path) -> None:
        super().__init__(found.form, found.moments)
        self.name = found.name  # type: ignore[misc]
        self._found = found
        self._folder = folder

    @property
    def full(self) -> Rank:
        """See the base class."""
        return self._found.full

    def factors(self, rank: Rank) -> Factors:
        """See the base class."""
        self.check(rank)
        path = self._folder / f"{self._digest}-{self.name}-{'x'.join(map(str, rank))}.npz"
        kept = _read(path, self.name)
        if kept is None:
            kept = self._found.factors(rank)
            _write(path, kept)
        return kept

    @cached_property
    def _digest(self) -> str:
        form, found = self.form, hashlib.blake2b(digest_size=16)
        for part in (_VERSION, form.op, form.tensor.shape, form.strides, form.dilations, form.pads):
            found.update(repr(part).encode())
        found.update(np.ascontiguousarray(form.tensor).data)
        if self.moments is not None:
            found.update(np.ascontiguousarray(self.moments).data)
        return found.hexdigest()


def _read(path: Path, method: str) -> Factors | None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            count = len([name for name in arrays.files if name.startswith("tensor")])
            stages = tuple(Stage(arrays[f"tensor{i}"], tuple(arrays[f"axes{i}"].tolist())) for i in range(count))
            return Factors(method, tuple(arrays["rank"].tolist()), stages)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, factors: Factors) -> None:
    arrays = {"rank": np.array(factors.rank, dtype=np.int64)}
    for place, stage in enumerate(factors.stages):
        arrays[f"tensor{place}"] = stage.tensor
        arrays[f"axes{place}"] = np.array(stage.axes, dtype=np.int64)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path.parent}: cannot be made: {error.strerror}") from error
    write_bytes({path: [content.getvalue()]})
