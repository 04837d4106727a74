"""A training on disk: written whole or not at all, and taken up again only where it belongs."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from time import monotonic
from typing import Any
from zipfile import BadZipFile

import torch

from lpcc.door import files
from lpcc.errors import UsageError
from lpcc.train.recipe import Recipe

Tensor = Any

_FORMAT = 1


@dataclass(frozen=True)
class Identity:
    """What a training is of. One that differs in anything is another one."""

    model: str
    """Hash of the student as it came."""
    teacher: str
    losses: str
    """What the objective says of itself, what it reads, and its own parameters but for their values."""
    data: str
    recipe: Mapping[str, Any]
    device: str

    @classmethod
    def of(cls, student: Any, teacher: Any, objective: Any, data: str, recipe: Recipe, device: str) -> Identity:
        """The identity of a training before its first step."""
        shapes = [(name, tuple(parameter.shape)) for name, parameter in objective.named_parameters()]
        losses = f"{objective} {objective.student_taps} {objective.teacher_taps} {shapes}"
        mine = digest(student, " ".join([*student.weights, *student.others]))
        return cls(mine, digest(teacher), losses, data, recipe.to_json(), device)

    def difference(self, other: Identity) -> str:
        """What is not the same in `other`, in words; empty if all is."""
        for name, what in _OTHER.items():
            if getattr(self, name) != getattr(other, name):
                return f"of {what}"
        if self.device != other.device:
            return f"made on {other.device}, which this is not ({self.device})"
        for name, value in self.recipe.items():
            if other.recipe.get(name) != value:
                return f"of another recipe: {name} was {other.recipe.get(name)}, now it is {value}"
        return ""


_OTHER = {"model": "another model", "teacher": "another teacher", "losses": "other losses", "data": "other data"}


class Checkpoint:
    """The file of a checkpoint: written at most every so many seconds, and when asked to."""

    def __init__(self, path: Path, identity: Identity, seconds: float) -> None:
        self.path = path
        self._identity = identity
        self._seconds = seconds
        self._written = monotonic()
        self._sweep()

    @property
    def due(self) -> bool:
        """Whether the last one is old enough for the next."""
        return monotonic() - self._written >= self._seconds

    def write(self, content: Mapping[str, Any]) -> None:
        """Write tensors and plain values. The file before stays until the new one is on disk.

        Raises UsageError when it cannot be written.
        """
        identity = json.dumps(vars(self._identity))
        buffer = io.BytesIO()
        torch.save({"format": _FORMAT, "identity": identity, "content": dict(content)}, buffer)
        files.write_bytes({self.path: [buffer.getvalue()]})
        self._written = monotonic()

    def read(self) -> dict[str, Any] | None:
        """What was written last; None where there is no file yet.

        Raises UsageError in one line where it is no checkpoint or belongs to another training.
        """
        if not self.path.exists():
            return None
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            known = found["format"] == _FORMAT
            identity = Identity(**json.loads(found["identity"]))
            content: dict[str, Any] = found["content"]
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except (
            UnpicklingError,
            BadZipFile,
            RuntimeError,
            EOFError,
            KeyError,
            TypeError,
            ValueError,
            IndexError,
        ) as error:
            raise UsageError(f"{self.path}: is no checkpoint of a training, or a damaged one") from error
        if not known:
            raise UsageError(f"{self.path}: was written by another version of lpcc")
        difference = self._identity.difference(identity)
        if difference:
            raise UsageError(
                f"{self.path}: this checkpoint is {difference}; train without resuming, or to another file"
            )
        return content

    def _sweep(self) -> None:
        """Remove what is left of a checkpoint that was being written when its process was killed."""
        for left in self.path.resolve().parent.glob(f".{self.path.name}.*.tmp"):
            left.unlink(missing_ok=True)


def digest(module: Any, more: str = "") -> str:
    """Hash of all parameters and buffers of a module, with their names and types; of None, too."""
    found = hashlib.sha256(f"{type(module).__name__} {more}".encode())
    if module is not None:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
