from __future__ import annotations

import numpy as np
import pytest

from lpcc.errors import UsageError
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.augment import Augment, layout_of, moved, pasted  # noqa: E402

Tensor = torch.Tensor


def images(count: int = 4, height: int = 12, width: int = 10, layout: str = "NCHW") -> Tensor:
    found = torch.arange(count * 3 * height * width, dtype=torch.float32).reshape(count, 3, height, width)
    return found if layout == "NCHW" else found.permute(0, 2, 3, 1).contiguous()


def augment(recipe: Recipe, batch: Tensor) -> Augment:
    found = Augment.of(recipe, {"x": tuple(batch.shape)}, batch.is_floating_point())
    assert found is not None
    return found


def test_nothing_without_being_asked() -> None:
    assert Augment.of(Recipe(), {"x": (1, 7)}, True) is None


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 3, 32, 32), "NCHW"),
        ((1, 1, 28, 28), "NCHW"),
        ((1, 32, 32, 3), "NHWC"),
        ((1, 28, 28, 1), "NHWC"),
        ((1, 4, 64, 80), "NCHW"),
        ((1, 3, 224, 3), None),
        ((1, 16, 20, 20), None),
        ((1, 3, 2, 9), None),
        ((1, 32, 32), None),
        ((1, 3, 8, 32, 32), None),
    ],
)
def test_what_looks_like_images(shape: tuple[int, ...], layout: str | None) -> None:
    assert layout_of(shape) == layout


@pytest.mark.parametrize(
    ("options", "shapes", "message"),
    [
        ({"flip": True}, {"x": (1, 20)}, r"`flip` is for images; input `x` \[1, 20\] does not look like them"),
        ({"mix": "mixup"}, {"a": (1, 3, 8, 8), "b": (1, 3)}, "`mix=mixup` is for models of one input.*`a`, `b`"),
        ({"crop": 8}, {"x": (1, 3, 8, 9)}, "`crop` = 8 is more than images of 8 pixels can be shifted"),
    ],
)
def test_refuses_what_are_no_images(options: dict[str, object], shapes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        Augment.of(Recipe(**options), shapes, True)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_integers_cannot_be_blended_but_pasted() -> None:
    with pytest.raises(UsageError, match="blends images; input `x` takes no floats: use cutmix"):
        Augment.of(Recipe(mix="mixup"), {"x": (1, 3, 8, 8)}, False)
    batch = images().to(torch.uint8)
    mixed = augment(Recipe(mix="cutmix"), batch)({"x": batch}, 1, 0)
    assert mixed.feeds["x"].dtype == torch.uint8


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_flip_mirrors_some_images_left_to_right(layout: str) -> None:
    batch = images(40, layout=layout)
    found = moved(batch, layout, np.random.default_rng(0), flip=True, most=0)  # type: ignore[arg-type]
    mirrored = batch.flip(3 if layout == "NCHW" else 2)
    same = [bool((a == b).all()) for a, b in zip(found, batch, strict=True)]
    turned = [bool((a == b).all()) for a, b in zip(found, mirrored, strict=True)]
    assert [a != b for a, b in zip(same, turned, strict=True)] == [True] * 40
    assert 8 < sum(turned) < 32


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_crop_is_a_window_of_the_image_padded_by_reflection(layout: str) -> None:
    batch = images(30, layout=layout)
    found = moved(batch, layout, np.random.default_rng(0), flip=False, most=2)  # type: ignore[arg-type]
    channels_first = [t if layout == "NCHW" else t.permute(0, 3, 1, 2) for t in (batch, found)]
    padded = torch.nn.functional.pad(channels_first[0], (2, 2, 2, 2), mode="reflect")
    places = set()
    for before, after in zip(padded, channels_first[1], strict=True):
        windows = [(y, x) for y in range(5) for x in range(5) if (before[:, y : y + 12, x : x + 10] == after).all()]
        assert len(windows) == 1
        places.add(windows[0])
    assert len(places) > 10
    assert {y for y, _ in places} == {x for _, x in places} == set(range(5))


def test_mixup_blends_with_a_partner() -> None:
    batch = images(8)
    mixed = augment(Recipe(mix="mixup", mix_alpha=5.0), batch)({"x": batch}, 1, 0)
    assert mixed.partner is not None
    assert 0 < mixed.share < 1
    assert sorted(mixed.partner.tolist()) == list(range(8))
    expected = batch * mixed.share + batch[mixed.partner] * (1 - mixed.share)
    torch.testing.assert_close(mixed.feeds["x"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_cutmix_pastes_a_rectangle_and_tells_its_share(layout: str) -> None:
    zeros, ones = (torch.full((3, 3, 24, 20), float(value)) for value in (0, 1))
    if layout == "NHWC":
        zeros, ones = zeros.permute(0, 2, 3, 1), ones.permute(0, 2, 3, 1)
    shares = []
    for seed in range(200):
        found, share = pasted(zeros, ones, layout, 0.5, np.random.default_rng(seed))  # type: ignore[arg-type]
        assert float(found.mean()) == pytest.approx(1 - share)
        plane = found[0, 0] if layout == "NCHW" else found[0, :, :, 0]
        rows, columns = plane.any(1).nonzero().ravel(), plane.any(0).nonzero().ravel()
        assert plane[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        shares.append(share)
    assert min(shares) < 0.55  # whole rectangles: half of the area
    assert max(shares) > 0.75  # at a corner a quarter of it is left
    assert not zeros.any()


def test_cutmix_of_all_and_of_nothing() -> None:
    zeros, ones = torch.zeros(2, 3, 9, 9), torch.ones(2, 3, 9, 9)
    found, share = pasted(zeros, ones, "NCHW", 1.0, np.random.default_rng(0))
    assert (share, float(found.sum())) == (1.0, 0.0)
    found, share = pasted(zeros, ones, "NCHW", 0.0, np.random.default_rng(0))
    assert share == pytest.approx(1 - float(found.mean()))


def test_both_by_turns() -> None:
    batch = images(6)
    both = augment(Recipe(mix="both"), batch)
    kinds = {bool(torch.isin(both({"x": batch}, 1, step).feeds["x"], batch).all()) for step in range(20)}
    assert kinds == {True, False}  # pasted pixels are pixels of the batch, blended ones are not


def test_what_is_drawn_is_a_function_of_seed_epoch_and_step() -> None:
    batch = images(16)
    options = {"flip": True, "crop": 2, "mix": "mixup"}

    def made(seed: int, epoch: int, step: int) -> bytes:
        found = augment(Recipe(seed=seed, **options), batch)({"x": batch}, epoch, step)  # type: ignore[arg-type]
        return found.feeds["x"].numpy().tobytes()

    assert made(1, 2, 3) == made(1, 2, 3)
    assert len({made(1, 2, 3), made(2, 2, 3), made(1, 3, 3), made(1, 2, 4)}) == 4
    assert (batch == images(16)).all()
