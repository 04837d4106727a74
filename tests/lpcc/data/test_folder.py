from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpcc.data import Dataset, Preprocess, TensorSpec
from lpcc.errors import DataError

INPUT = (TensorSpec("x", np.dtype(np.float32), ("batch", 3, 4, 4)),)
PLAIN = Preprocess(size=(4, 4))


def image(path: Path, value: int, size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def values(data: Dataset) -> list[int]:
    return [int(v) for b in data.batches(2) for v in b.feeds["x"][:, 0, 0, 0]]


def labels(data: Dataset) -> list[int]:
    return [int(v) for b in data.batches(2) if b.labels is not None for v in b.labels]


def refusal(folder: Path, preprocess: Preprocess | None = PLAIN, **options: object) -> str:
    with pytest.raises(DataError) as error:
        list(Dataset.open(folder, INPUT, preprocess, **options).batches(2))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_reads_images_by_name(tmp_path: Path) -> None:
    for value, name in ((3, "c.PNG"), (1, "a.bmp"), (2, "b.webp")):
        image(tmp_path / name, value)
    (tmp_path / "notes.md").write_text("no image")
    data = Dataset.open(tmp_path, INPUT, PLAIN)
    assert len(data) == 3
    assert not data.labelled
    assert values(data) == [1, 2, 3]
    assert values(data.head(2)) == [1, 2]


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for value, name in ((1, "dog/1.png"), (2, "cat/1.png"), (3, "cat/2.png")):
        image(tmp_path / name, value)
    data = Dataset.open(tmp_path, INPUT, PLAIN, labels_needed=True)
    assert (values(data), labels(data)) == ([2, 3, 1], [0, 0, 1])


def test_numbered_sub_folders_are_class_indices(tmp_path: Path) -> None:
    for value in (0, 2, 10):
        image(tmp_path / str(value) / "1.png", value)
    data = Dataset.open(tmp_path, INPUT, PLAIN)
    assert values(data) == labels(data)


@pytest.mark.parametrize(
    ("name", "text"),
    [("labels.csv", "file,label\nb.png,7\na.png, 5\n"), ("labels.txt", "b.png 7\na.png 5\n")],
)
def test_labels_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    image(tmp_path / "a.png", 1)
    image(tmp_path / "b.png", 2)
    (tmp_path / name).write_text(text)
    data = Dataset.open(tmp_path, INPUT, PLAIN)
    assert (values(data), labels(data)) == ([1, 2], [5, 7])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.png,1\n", "no label for 1 of the images, such as `b.png`"),
        ("a.png,1\nb.png,2\nc.png,3\n", "line 3 names `c.png`, which is not there"),
        ("a.png,1\nb.png,cat\n", "line 2 is not `file,class index`: 'b.png,cat'"),
    ],
)
def test_refuses_wrong_label_files(tmp_path: Path, text: str, expected: str) -> None:
    image(tmp_path / "a.png", 1)
    image(tmp_path / "b.png", 2)
    (tmp_path / "labels.csv").write_text(text)
    assert expected in refusal(tmp_path)


def test_refuses_an_empty_folder(tmp_path: Path) -> None:
    assert "no samples" in refusal(tmp_path)


def test_refuses_a_mixture(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    image(tmp_path / "cat" / "a.png", 1)
    assert "both beside and inside sub-folders" in refusal(tmp_path)


def test_names_a_damaged_image(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    assert "b.png: cannot read the image: damaged, or not an image" in refusal(tmp_path)
    (tmp_path / "b.png").write_bytes(b"")
    assert "b.png: cannot read the image" in refusal(tmp_path)


def test_wants_a_preprocessing(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    assert "needs a preprocessing file, such as two lines `size = [224, 224]` and `divide = 255`" in refusal(
        tmp_path, None
    )


def test_says_how_to_fit_the_model(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    text = refusal(tmp_path, Preprocess())
    assert "a.png: gives [3, 5, 6] for input `x`, the model takes [3, 4, 4]: state `size`" in text


def test_says_how_gray_images_fit_and_what_a_batch_axis_is_for(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    gray = refusal(tmp_path, Preprocess(color="GRAY", size=(4, 4)))
    assert 'gives [1, 4, 4] for input `x`, the model takes [3, 4, 4]: `color = "RGB"` in the preprocessing' in gray
    single = Dataset.open(tmp_path, [TensorSpec("x", np.dtype(np.float32), (3, 4, 4))], Preprocess(size=(4, 4)))
    with pytest.raises(DataError, match="give the model a batch axis"):
        list(single.batches(1))


def test_refuses_images_of_different_sizes(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    image(tmp_path / "b.png", 1, (7, 7))
    free = (TensorSpec("x", np.dtype(np.float32), (None, 3, None, None)),)
    with pytest.raises(DataError, match=r"b.png: gives \[3, 7, 7\], the images before it \[3, 5, 6\]: state a `size`"):
        list(Dataset.open(tmp_path, free, Preprocess()).batches(1))


def test_says_how_to_label(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    assert "a sub-folder per class, or add a labels.csv" in refusal(tmp_path, labels_needed=True)


def test_feeds_one_input_only(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 1)
    with pytest.raises(DataError, match="a folder of images feeds one input, the model has `x`, `y`"):
        Dataset.open(tmp_path, (*INPUT, TensorSpec("y", np.dtype(np.float32), ("batch", 1))), PLAIN)
