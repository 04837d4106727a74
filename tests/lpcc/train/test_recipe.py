from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields

import pytest

from lpcc.errors import UsageError
from lpcc.train.recipe import Recipe


def test_every_option_is_explained() -> None:
    source = __import__("inspect").getsource(Recipe)
    for field in fields(Recipe):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1]
        assert after.startswith('    """'), f"{field.name} has no docstring"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "training option `epochs` takes a whole number between 1 and 100000, not `0`"),
        ({"epochs": 1.5}, "`epochs` takes a whole number"),
        ({"epochs": True}, "`epochs` takes a whole number"),
        ({"learning_rate": 0.0}, "`learning-rate` takes a number between 1e-09 and 1000, not `0.0`"),
        ({"learning_rate": float("nan")}, "`learning-rate` takes a number"),
        ({"clip": float("inf")}, "`clip` takes a number at least 0, not `inf`"),
        ({"optimiser": "lion"}, "`optimiser` takes one of sgd, adam, adamw, soap, not `lion`"),
        ({"flip": 1}, "`flip` takes true or false, not `1`"),
        ({"holdout": 0.6}, "`holdout` takes a number between 0 and 0.5"),
        ({"metric": 3}, "`metric` takes text"),
        ({"at_once": 0}, "`at-once` takes a whole number"),
    ],
)
def test_options_out_of_range_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        Recipe(**options)  # type: ignore[arg-type]
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_whole_numbers_are_numbers_and_none_stays_none() -> None:
    recipe = Recipe(learning_rate=1, clip=0, at_once=None, patience=None, metric=None)
    assert recipe.rate(None) == 1
    assert recipe.patience is None


def test_the_rate_is_lower_the_nearer_the_student_is_unless_given() -> None:
    for optimiser, peak in (("sgd", 0.05), ("adam", 0.005), ("adamw", 0.005)):
        recipe = Recipe(optimiser=optimiser)  # type: ignore[arg-type]
        assert [recipe.rate(db) for db in (None, math.nan, -math.inf, -3.0, 0.0)] == [peak] * 5
        assert recipe.rate(10.0) == pytest.approx(peak / 10)
        assert recipe.rate(15.0) == recipe.rate(40.0) == recipe.rate(math.inf) == pytest.approx(peak / 20)
    assert {Recipe(learning_rate=0.5).rate(db) for db in (None, 0.0, 20.0)} == {0.5}


def test_a_pass_with_options_of_the_same_names_gives_a_recipe() -> None:
    @dataclass(frozen=True)
    class Options:
        epochs: int = 3
        flip: bool = True
        skip: tuple[str, ...] = ()

    assert Recipe.of(Options(), seed=7) == Recipe(epochs=3, flip=True, seed=7)
    with pytest.raises(UsageError, match="`epochs`"):
        Recipe.of(Options(epochs=-1))


def test_norms_learn_from_batches_that_say_something() -> None:
    assert Recipe().trains_norms(64)
    assert not Recipe().trains_norms(1)
    assert Recipe(norms="train").trains_norms(1)
    assert not Recipe(norms="frozen").trains_norms(64)


def test_json_gives_the_recipe_again() -> None:
    recipe = Recipe(epochs=2, mix="both", average=0.99)
    assert Recipe(**json.loads(json.dumps(recipe.to_json()))) == recipe
