from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lpcc.data import Preprocess
from lpcc.errors import DataError

F32 = np.dtype(np.float32)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_reads_every_key(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.toml",
        'size = [224, 160]\ncrop = true\nresize = 256\ncolor = "BGR"\nlayout = "NHWC"\ndivide = 255\n'
        "mean = [1, 2, 3.5]\nstd = 2\n",
    )
    assert Preprocess.load(path) == Preprocess((224, 160), True, 256, "BGR", "NHWC", 255.0, (1.0, 2.0, 3.5), (2.0,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("means = 1", "unknown key `means`; did you mean `mean`?"),
        ("zzz = 1", "unknown key `zzz`; known are size, crop"),
        ("size = 224", "`size` must be [width, height], not 224"),
        ("size = [0, 2]", "`size` must be a whole number of pixels from 1 to 32768, not 0"),
        ("std = 0", "`std` must not be 0"),
        ("std = [1, 0, 1]", "`std` must not be 0"),
        ("divide = 0", "`divide` must not be 0"),
        ("mean = [1, 2]", "`mean` must be a number or one per channel"),
        ("mean = nan", "`mean` must be a number"),
        ("mean = 'x'", "`mean` must be a number"),
        ("color = 'rgb'", "`color` must be one of RGB, BGR, GRAY"),
        ("layout = 1", "`layout` must be one of NCHW, NHWC"),
        ("crop = 1", "`crop` must be true or false"),
        ("crop = true", "`crop` needs a `size`"),
        ("resize = 9\nsize = [8, 8]", "`resize` is the shorter side before a crop"),
        ("resize = 7\nsize = [8, 8]\ncrop = true", "`resize` is the shorter side before a crop"),
        ("size = [", "not TOML"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(DataError) as error:
        Preprocess.load(write(tmp_path / "p.toml", text))
    assert expected in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the preprocessing: No such file"):
        Preprocess.load(tmp_path / "none.toml")


def test_arrays_and_files_give_the_same(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for p in (
        Preprocess((12, 10), color="BGR", mean=(1.0, 2.0, 3.0)),
        Preprocess((12, 12), crop=True, divide=255.0),
        Preprocess(color="GRAY", layout="NHWC"),
        Preprocess((12, 12), crop=True, resize=12, color="RGB"),
    ):
        np.testing.assert_array_equal(p.images(pixels[np.newaxis], F32)[0], p.file(tmp_path / "a.png", F32))


def test_arrays_of_that_size_are_not_resized() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    np.testing.assert_array_equal(Preprocess((8, 8), crop=True).images(pixels, F32), pixels)


def test_gray_arrays_need_no_channel_axis() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6), dtype=np.uint8)
    np.testing.assert_array_equal(Preprocess().images(pixels, F32), pixels[:, np.newaxis])
    assert Preprocess(color="RGB").images(pixels, F32).shape == (2, 3, 8, 6)


def test_integer_inputs_are_rounded_and_clipped() -> None:
    pixels = np.array([[[[0], [3], [255]]]], np.uint8)
    out = Preprocess(mean=(1.0,), std=(0.5,)).images(pixels, np.dtype(np.int8))
    assert out.dtype == np.int8
    assert out.ravel().tolist() == [-2, 4, 127]


def test_refuses_arrays_that_are_no_images() -> None:
    with pytest.raises(DataError, match=r"samples of shape \[5, 5, 5\]"):
        Preprocess().images(np.zeros((2, 5, 5, 5), np.uint8), F32)


def test_refuses_a_mean_per_channel_of_other_channels() -> None:
    with pytest.raises(DataError, match="mean has 3 entries, images have 1 channels: state the `color`"):
        Preprocess(mean=(1.0, 2.0, 3.0)).images(np.zeros((2, 5, 5), np.uint8), F32)


def test_agrees_with_the_zoo(zoo: Any, tmp_path: Path) -> None:
    for name in zoo.names:
        entry = zoo.module.ENTRIES[name]
        raw, _ = zoo.module.images(entry["calib"]["data"])
        preprocess = Preprocess.parse(entry["preprocess"], name)
        expected = zoo.calib(name, 2)[entry["input"]]
        start, stop = entry["calib"].get("rows", [0, len(raw)])
        order = np.arange(start, stop)
        if entry["calib"].get("shuffle"):
            order = np.random.default_rng(0).permutation(order)
        for want, i in zip(expected, order[:2], strict=True):
            if isinstance(raw, list):
                (tmp_path / "x.jpg").write_bytes(raw[i])
                assert Image.open(io.BytesIO(raw[i])).format in ("JPEG", "PNG")
                found = preprocess.file(tmp_path / "x.jpg", F32)
            else:
                found = preprocess.images(raw[i : i + 1], F32)[0]
            np.testing.assert_array_equal(found, want)
