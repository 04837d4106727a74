"""How raw images become a model's input: resize or crop, colour, scale, layout."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lpcc.errors import DataError
from lpcc.runtime.spec import Array, shape_text

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Preprocess:
    """Images of uint8 (height, width, channels) to inputs: ``(pixel / divide - mean) / std``.

    Reads the same from a TOML file as from its fields, which all have a default.
    """

    size: tuple[int, int] | None = None
    """(width, height) to resize to; None keeps each image's own. Arrays that have this size already are not resized."""
    crop: bool = False
    """Keep the proportions: scale the shorter side, cut `size` out of the middle. Otherwise images are stretched."""
    resize: int | None = None
    """Length of the shorter side before the crop, in pixels; by default the longer side of `size` / 0.875."""
    color: Literal["RGB", "BGR", "GRAY"] | None = None
    """Channels; by default RGB for image files, and what they have for arrays (where 3 channels are RGB)."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    divide: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    """One number, or one per channel in the order of `color`."""
    std: tuple[float, ...] = (1.0,)
    """One number, or one per channel in the order of `color`."""

    @classmethod
    def load(cls, path: Path) -> Preprocess:
        """Read a preprocessing file. Raises DataError naming the file and the key."""
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: cannot read the preprocessing: not a file")
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise DataError(f"{path}: cannot read the preprocessing: {reason}") from None
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"{path}: not TOML: {error}") from None
        return cls.parse(table, str(path))

    @classmethod
    def parse(cls, table: dict[str, Any], where: str) -> Preprocess:
        """Make one of a TOML table. Raises DataError naming `where` and the key."""
        names = [field.name for field in fields(cls)]
        for key in table:
            if key not in names:
                close = get_close_matches(key, names, n=1)
                hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(names)}"
                raise DataError(f"{where}: unknown key `{key}`; {hint}")
        made = cls(**{key: _READERS[key](value, f"{where}: `{key}`") for key, value in table.items()})
        if made.crop and made.size is None:
            raise DataError(f"{where}: `crop` needs a `size` to cut out")
        if made.resize is not None and (not made.crop or made.resize < max(made.size or (0,))):
            raise DataError(f"{where}: `resize` is the shorter side before a crop: it needs `crop` and at least `size`")
        return made

    def file(self, path: Path, dtype: np.dtype[Any]) -> Array:
        """One image file as an input (C, H, W) or (H, W, C). Raises DataError naming the file."""
        from PIL import Image

        try:
            with Image.open(path) as image:
                pixels = self._pixels(image, "L" if self.color == "GRAY" else "RGB")
        except Exception as error:  # Pillow's decoders raise a dozen kinds of errors for damaged files
            reason = getattr(error, "strerror", None) or "damaged, or not an image"
            raise DataError(f"{path}: cannot read the image: {reason}") from None
        single: Array = self._scale(pixels[np.newaxis], dtype, str(path))[0]
        return single

    def images(self, batch: Array, dtype: np.dtype[Any], where: str = "images") -> Array:
        """Raw images of uint8, (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, as inputs of type `dtype`.

        Raises DataError for other shapes.
        """
        batch = _channels_last(batch, where)
        height, width, channels = batch.shape[1:]
        wanted = {None: channels, "GRAY": 1}.get(self.color, 3)
        if channels != wanted or (self.size is not None and self.size != (width, height)):
            from PIL import Image

            mode = "L" if wanted == 1 else "RGB"
            singles = (Image.fromarray(x[..., 0] if channels == 1 else x) for x in batch)
            batch = np.stack([self._pixels(image, mode) for image in singles])
        return self._scale(batch, dtype, where)

    def shape(self, where: str, row: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that an image array of shape `row` has after `images`. Raises DataError naming `where`."""
        blank = self.images(np.zeros((1, *row), np.uint8), np.dtype(np.float32), where)
        return tuple(blank.shape[1:])

    def _pixels(self, image: Image, mode: str) -> Array:
        """Colours and size: uint8 (H, W, C)."""
        from PIL.Image import Resampling

        image = image.convert(mode)
        if self.size is not None and not self.crop:
            image = image.resize(self.size, Resampling.BILINEAR)
        elif self.size is not None:
            width, height = self.size
            side = self.resize or round(max(width, height) / 0.875)
            ratio = side / min(image.size)
            scaled = max(side, round(image.width * ratio)), max(side, round(image.height * ratio))
            image = image.resize(scaled, Resampling.BICUBIC)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image)
        return pixels[..., np.newaxis] if mode == "L" else pixels

    def _scale(self, pixels: Array, dtype: np.dtype[Any], where: str) -> Array:
        """Values and layout of uint8 (N, H, W, C)."""
        channels = pixels.shape[-1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                cure = ": state the `color` that they are to have" if self.color is None else ""
                raise DataError(f"{where}: {name} has {len(values)} entries, images have {channels} channels{cure}")
        x: Array = pixels.astype(np.float32)
        if self.divide != 1:
            x /= np.float32(self.divide)
        if self.color == "BGR":
            x = x[..., ::-1]
        x = (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        if self.layout == "NCHW":
            x = x.transpose(0, 3, 1, 2)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            x = np.clip(np.rint(x), limits.min, limits.max)
        return np.ascontiguousarray(x, dtype=dtype)


def _channels_last(batch: Array, where: str) -> Array:
    if batch.ndim == 3:
        return batch[..., np.newaxis]
    if batch.ndim == 4 and batch.shape[-1] in (1, 3):
        return batch
    if batch.ndim == 4 and batch.shape[1] in (1, 3):
        return batch.transpose(0, 2, 3, 1)
    raise DataError(
        f"{where} has samples of shape {shape_text(batch.shape[1:])}; images are [H, W], [H, W, C] or [C, H, W], "
        "with 1 or 3 channels"
    )


def _number(value: object, what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
        return float(value)
    raise DataError(f"{what} must be a number, not {value!r}")


def _nonzero(value: object, what: str) -> float:
    number = _number(value, what)
    if number == 0:
        raise DataError(f"{what} must not be 0")
    return number


def _numbers(value: object, what: str) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) not in (1, 3):
        raise DataError(f"{what} must be a number or one per channel, not {value!r}")
    return tuple(_number(v, what) for v in values)


def _nonzeros(value: object, what: str) -> tuple[float, ...]:
    numbers = _numbers(value, what)
    if 0 in numbers:
        raise DataError(f"{what} must not be 0")
    return numbers


_LARGEST = 1 << 15


def _pixels_count(value: object, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST:
        return value
    raise DataError(f"{what} must be a whole number of pixels from 1 to {_LARGEST}, not {value!r}")


def _size(value: object, what: str) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2:
        return _pixels_count(value[0], what), _pixels_count(value[1], what)
    raise DataError(f"{what} must be [width, height], not {value!r}")


def _switch(value: object, what: str) -> bool:
    if isinstance(value, bool):
        return value
    raise DataError(f"{what} must be true or false, not {value!r}")


def _color(value: object, what: str) -> str:
    return _one_of(value, what, ("RGB", "BGR", "GRAY"))


def _layout(value: object, what: str) -> str:
    return _one_of(value, what, ("NCHW", "NHWC"))


def _one_of(value: object, what: str, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise DataError(f"{what} must be one of {', '.join(choices)}, not {value!r}")


_READERS: dict[str, Callable[[object, str], Any]] = {
    "size": _size,
    "crop": _switch,
    "resize": _pixels_count,
    "color": _color,
    "layout": _layout,
    "divide": _nonzero,
    "mean": _numbers,
    "std": _nonzeros,
}
