"""Images changed in ways that need no labels: mirrored, shifted, blended, pasted into each other.

All at once in torch, on the device of the batch; what is drawn is a function of the seed, the epoch and the step, drawn
by NumPy, so that it is the same on every device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from lpcc.errors import UsageError
from lpcc.runtime.spec import shape_text
from lpcc.train.recipe import Recipe

Tensor = Any
Layout = Literal["NCHW", "NHWC"]

_IMAGE_AXES = 4
_COLOURS = (1, 3, 4)
_SMALLEST = 8
"""Pixels of a side below which something is no image."""


@dataclass(frozen=True)
class Mixed:
    """Samples after augmentation. Sample i is `share` of itself and the rest of sample ``partner[i]``."""

    feeds: dict[str, Tensor]
    share: float = 1.0
    partner: Tensor | None = None
    """(N,) indices; None where nothing was mixed."""


@dataclass(frozen=True)
class Augment:
    """The changes that a recipe asks for, to the one input of a model that takes images."""

    recipe: Recipe
    input: str
    layout: Layout

    @classmethod
    def of(cls, recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], floats: bool) -> Augment | None:
        """The changes for inputs of these shapes (N, ...); None where the recipe asks for none.

        `floats` says whether values are floats, without which images cannot be blended. Raises UsageError where the
        inputs do not look like images.
        """
        if not recipe.augments:
            return None
        asked = f"mix={recipe.mix}" if recipe.mix != "none" else "crop" if recipe.crop else "flip"
        if len(shapes) != 1:
            names = ", ".join(f"`{name}`" for name in shapes)
            raise UsageError(f"training option `{asked}` is for models of one input, of images; this one has {names}")
        ((name, shape),) = shapes.items()
        layout = layout_of(shape)
        if layout is None:
            raise UsageError(
                f"training option `{asked}` is for images; input `{name}` {shape_text(shape)} does not look like them "
                "(N, channels, height, width, or channels last; 1, 3 or 4 channels)"
            )
        if recipe.mix in ("mixup", "both") and not floats:
            raise UsageError(f"training option `{asked}` blends images; input `{name}` takes no floats: use cutmix")
        side = min(shape[2:] if layout == "NCHW" else shape[1:3])
        if recipe.crop >= side:
            raise UsageError(
                f"training option `crop` = {recipe.crop} is more than images of {side} pixels can be shifted"
            )
        return cls(recipe, name, layout)

    def __call__(self, feeds: Mapping[str, Tensor], epoch: int, step: int) -> Mixed:
        """The samples of one step, changed. `feeds` itself stays as it is."""
        rng = np.random.default_rng([self.recipe.seed, epoch, step])
        images = feeds[self.input]
        if self.recipe.flip or self.recipe.crop:
            images = moved(images, self.layout, rng, flip=self.recipe.flip, most=self.recipe.crop)
        mix = self.recipe.mix
        if mix == "both":
            mix = "mixup" if rng.random() < 0.5 else "cutmix"
        if mix == "none":
            return Mixed({**feeds, self.input: images})
        partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
        share = float(rng.beta(self.recipe.mix_alpha, self.recipe.mix_alpha))
        if mix == "mixup":
            images = images * share + images[partner] * (1 - share)
        else:
            images, share = pasted(images, images[partner], self.layout, share, rng)
        return Mixed({**feeds, self.input: images}, share, partner)


def layout_of(shape: tuple[int, ...]) -> Layout | None:
    """Where a batch of images of this shape has its channels; None where it does not look like images."""
    if len(shape) != _IMAGE_AXES:
        return None
    if shape[1] in _COLOURS and min(shape[2:]) >= _SMALLEST:
        return "NCHW"
    return "NHWC" if shape[3] in _COLOURS and min(shape[1:3]) >= _SMALLEST else None


def moved(images: Tensor, layout: Layout, rng: np.random.Generator, *, flip: bool, most: int) -> Tensor:
    """Images mirrored left to right, each with a chance of a half, and shifted by up to `most` pixels each way.

    The same as cutting a window of the images' size out of images padded by reflection ("random crop with padding"):
    padding by black is not possible where nobody knows which value is black.
    """
    count = len(images)
    height, width = images.shape[2:] if layout == "NCHW" else images.shape[1:3]
    shifts = rng.integers(-most, most + 1, (2, count, 1))
    rows = _reflected(np.arange(height) + shifts[0], height)
    columns = _reflected(np.arange(width) + shifts[1], width)
    if flip:
        columns = np.where(rng.random((count, 1)) < 0.5, columns[:, ::-1], columns)
    sample = torch.arange(count, device=images.device)[:, None, None]
    row = torch.from_numpy(rows).to(images.device)[:, :, None]
    column = torch.from_numpy(np.ascontiguousarray(columns)).to(images.device)[:, None, :]
    if layout == "NHWC":
        return images[sample, row, column]
    return images.permute(0, 2, 3, 1)[sample, row, column].permute(0, 3, 1, 2).contiguous()


def pasted(
    images: Tensor, others: Tensor, layout: Layout, share: float, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """CutMix: in all images the same rectangle of ``1 - share`` of the area is that of `others`.

    Sides are ``sqrt(1 - share)`` of the image's, the centre is anywhere; what lies outside the image is cut off. Also
    gives the share that each image has of itself then.
    """
    height, width = images.shape[2:] if layout == "NCHW" else images.shape[1:3]
    ratio = (1 - share) ** 0.5
    top, bottom = _span(height, ratio, rng)
    left, right = _span(width, ratio, rng)
    result = images.clone()
    box = (slice(top, bottom), slice(left, right))
    where = (slice(None), slice(None), *box) if layout == "NCHW" else (slice(None), *box)
    result[where] = others[where]
    return result, 1 - (bottom - top) * (right - left) / (height * width)


def _span(size: int, ratio: float, rng: np.random.Generator) -> tuple[int, int]:
    half = round(size * ratio) // 2
    centre = int(rng.integers(size))
    return max(0, centre - half), min(size, centre + half)


def _reflected(places: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Indices from outside mirrored at the first and the last, which are not doubled."""
    places = np.abs(places)
    inside: np.ndarray[Any, Any] = size - 1 - np.abs(size - 1 - places)
    return inside
