"""Samples from a folder of image files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lpcc.data.preprocess import Preprocess
from lpcc.data.rows import Rows, fits
from lpcc.data.source import Block
from lpcc.errors import DataError
from lpcc.runtime.spec import Array, shape_text

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})


class FolderSource:
    """Image files in order of their names, decoded as they are asked for.

    Labels come from ``labels.csv`` or ``labels.txt`` (a line per image: file and class index, separated by a comma or a
    space) or else from sub-folders, one per class. The class of a sub-folder is its name where all are numbers, its
    place in the sorted names otherwise.
    """

    def __init__(self, folder: Path, rows: Rows) -> None:
        if len(rows.specs) != 1:
            names = ", ".join(f"`{spec.name}`" for spec in rows.specs) or "none"
            raise DataError(f"{folder}: a folder of images feeds one input, the model has {names}: use an .npz file")
        self._preprocess = _stated(rows.preprocess, folder)
        (self._spec,) = rows.specs
        self._rows = rows
        self._folder = folder
        self._files, self._labels = _listing(folder)
        if not self._files:
            raise DataError(f"{folder}: no samples: no image files ({', '.join(sorted(SUFFIXES))})")
        self.description = str(folder)
        self.labelled = self._labels is not None

    def __len__(self) -> int:
        return len(self._files)

    def blocks(self, size: int) -> Iterator[Block]:
        """The samples in order, `size` at a time, fewer in the last block."""
        shape: tuple[int, ...] | None = None
        for start in range(0, len(self._files), size):
            images = []
            for path in self._files[start : start + size]:
                image = self._image(path)
                shape = shape or image.shape
                if image.shape != shape:
                    raise DataError(
                        f"{path}: gives {shape_text(image.shape)}, the images before it {shape_text(shape)}: "
                        "state a `size` in the preprocessing file"
                    )
                images.append(image)
            labels = None if self._labels is None else self._labels[start : start + size]
            yield Block({self._spec.name: np.stack(images)}, labels)

    def _image(self, path: Path) -> Array:
        if self._spec.dtype is None:
            raise DataError(f"input `{self._spec.name}` of the model is no tensor; data cannot be given for it")
        image = self._preprocess.file(path, self._spec.dtype)
        if not fits(image.shape, self._spec.shape):
            cure = self._rows.cure(image.shape, self._spec.shape or ())
            raise DataError(
                f"{path}: gives {shape_text(image.shape)} for input `{self._spec.name}`, the model takes "
                f"{shape_text(self._spec.shape)}"
                f"{cure or ': state `size`, `color` or `layout` in the preprocessing file'}"
            )
        return image


def _stated(preprocess: Preprocess | None, folder: Path) -> Preprocess:
    if preprocess is None:
        raise DataError(
            f"{folder}: a folder of images needs a preprocessing file, such as two lines "
            "`size = [224, 224]` and `divide = 255`"
        )
    return preprocess


def _listing(folder: Path) -> tuple[list[Path], Array | None]:
    files = _images(folder)
    for name in ("labels.csv", "labels.txt"):
        if (folder / name).is_file():
            return _listed(folder, folder / name)
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    groups = [_images(p) for p in classes]
    if files and any(groups):
        raise DataError(
            f"{folder}: has images both beside and inside sub-folders; keep one of the two, or a labels.csv"
        )
    if files or not any(groups):
        return files, None
    numbered = all(p.name.isdecimal() for p in classes)
    labels = [int(p.name) if numbered else place for place, p in enumerate(classes)]
    return [path for group in groups for path in group], np.repeat(
        np.array(labels, np.int64), [len(group) for group in groups]
    )


def _images(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot read the folder: {error.strerror}") from None


def _listed(folder: Path, listing: Path) -> tuple[list[Path], Array]:
    """Files and class indices that a labels file names, in order of the files' names."""
    try:
        lines = listing.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listing}: cannot read the labels: {error}") from None
    labels: dict[Path, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = next(csv.reader([line])) if "," in line else line.rsplit(maxsplit=1)
        fields = [field.strip() for field in fields]
        if number == 1 and len(fields) == 2 and not (folder / fields[0]).exists() and not fields[1].isdecimal():
            continue  # a heading
        if len(fields) != 2 or not fields[1].isdecimal():
            raise DataError(f"{listing}: line {number} is not `file,class index`: {line.strip()[:80]!r}")
        path = folder / fields[0]
        if not path.is_file():
            raise DataError(f"{listing}: line {number} names `{fields[0]}`, which is not there")
        labels[path] = int(fields[1])
    missing = [p.name for p in _images(folder) if p not in labels]
    if missing:
        raise DataError(f"{listing}: no label for {len(missing)} of the images, such as `{missing[0]}`")
    files = sorted(labels)
    return files, np.array([labels[path] for path in files], np.int64)
