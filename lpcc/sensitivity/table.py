"""Trials, what came of them, and the file that keeps it."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lpcc.errors import UsageError

Values = Mapping[str, float]
"""``noise`` (see `lpcc.quality.noise`: less is better) and the metrics asked for; NaN where one does not apply."""


@dataclass(frozen=True)
class Trial:
    """One network to be judged: a choice for each layer.

    `layer` is the one whose `choice` differs from the `base` that all others have; both are empty for the base itself.
    """

    base: str
    layer: str
    choice: str
    assignment: tuple[tuple[str, str], ...]
    """Layer and choice; a layer that is not listed is left to the pass."""

    @property
    def key(self) -> str:
        """What tells its outcome from those of other trials of the same subject."""
        text = json.dumps(sorted(self.assignment), ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def around(layers: Sequence[str], base: str, choices: Iterable[str]) -> list[Trial]:
    """The network with all layers at `base`, and for each layer and choice that with this layer changed alone."""
    whole = tuple((layer, base) for layer in layers)
    trials = [Trial(base, "", "", whole)]
    for choice in choices:
        for place, layer in enumerate(layers):
            if choice != base:
                changed = (*whole[:place], (layer, choice), *whole[place + 1 :])
                trials.append(Trial(base, layer, choice, changed))
    return trials


def leave_one_in(layers: Sequence[str], choices: Iterable[str], untouched: str) -> list[Trial]:
    """Each layer changed alone, all others `untouched` (``float``): what a choice does by itself."""
    return around(layers, untouched, choices)


def leave_one_out(layers: Sequence[str], base: str, untouched: str) -> list[Trial]:
    """All layers changed but one, which stays `untouched`: what would be gained by sparing it."""
    return around(layers, base, [untouched])


@dataclass(frozen=True)
class Row:
    """What came of a trial."""

    base: str
    layer: str
    choice: str
    values: Values


@dataclass(frozen=True)
class Table:
    """Outcomes by base, layer and choice."""

    rows: tuple[Row, ...]
    _places: dict[tuple[str, str, str], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = {(row.base, row.layer, row.choice): place for place, row in enumerate(self.rows)}
        object.__setattr__(self, "_places", places)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def of(self, base: str, layer: str = "", choice: str = "") -> Row:
        """The row of a layer's choice, that of the base itself without one. Raises KeyError where it was not tried."""
        if layer and choice == base:
            layer, choice = "", ""
        return self.rows[self._places[base, layer, choice]]

    def damage(self, base: str, layer: str, choice: str, value: str = "noise") -> float:
        """By how much a choice changes a value (``noise``: more is worse) against the base; infinite where it broke."""
        found, start = self.of(base, layer, choice).values[value], self.of(base).values[value]
        return found - start if math.isfinite(found) and math.isfinite(start) else math.inf

    def write_csv(self, path: Path) -> None:
        """Write all rows; the file appears whole or not at all. Raises UsageError where it cannot be written."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.values))
        rows = ([row.base, row.layer, row.choice, *(repr(row.values[name]) for name in names)] for row in self.rows)
        write_rows(path, ["base", "layer", "choice", *names], rows)


def write_rows(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all. Raises UsageError where it cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows(rows)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error


class Journal:
    """Outcomes on disk, one JSON line each, appended as they come: after a kill the work goes on where it stopped.

    A row is there as a whole or not at all: a line that was cut off is dropped when the file is opened.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self.path = folder / f"{digest}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = self.path.read_bytes() if self.path.exists() else b""
            whole = text[: text.rfind(b"\n") + 1]
            if whole != text:
                os.truncate(self.path, len(whole))
        except OSError as error:
            raise UsageError(f"{folder}: cannot keep sensitivities there: {error.strerror or error}") from error
        self._found: dict[str, Values] = dict(_rows(whole))

    def get(self, trial: Trial) -> Values | None:
        """What came of a trial; None where it has not been run."""
        return self._found.get(trial.key)

    def add(self, trial: Trial, values: Values) -> None:
        """Append what came of a trial."""
        self._found[trial.key] = values
        named = {"base": trial.base, "layer": trial.layer, "choice": trial.choice}
        line = json.dumps({"key": trial.key, **named, "values": dict(values)}) + "\n"
        try:
            with self.path.open("ab", buffering=0) as file:
                file.write(line.encode())
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def _rows(text: bytes) -> Iterator[tuple[str, Values]]:
    for line in text.splitlines():
        try:
            row = json.loads(line)
            yield str(row["key"]), {str(name): float(value) for name, value in row["values"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # not one of ours: measured again
