from __future__ import annotations

import math

import pytest

from lpcc.cli.options import check_data, finite, names, sizes
from lpcc.errors import UsageError


def test_sizes() -> None:
    assert sizes(None) == {}
    assert sizes(["batch=1", "images[2]=320", "a=b=3"]) == {"batch": 1, "images[2]": 320, "a=b": 3}


@pytest.mark.parametrize("text", ["", "=", "batch", "batch=", "=3", "batch=0", "batch=-1", "batch=1.5", "batch=x"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--dim"):
        sizes([text])


def test_what_is_for_data_needs_some_and_what_is_not_refuses_it() -> None:
    check_data(None, ["N=1"], preprocess=None)
    check_data("x.npz", None, preprocess="p.toml", samples=3)
    with pytest.raises(UsageError, match="--samples 3: is for the samples of --data"):
        check_data(None, None, preprocess=None, samples=3)
    with pytest.raises(UsageError, match="--dim N=1: is for random inputs"):
        check_data("x.npz", ["N=1"])


def test_names() -> None:
    assert names("--keep", None) == ()
    assert names("--keep", ["a, b", "c", "a"]) == ("a", "b", "c")
    assert names("--keep", ['"a,b" , c', '"d"', 'e"f']) == ("a,b", "c", "d", 'e"f')
    assert names("--keep", ['"\\u00fc,"']) == ("ü,",)


@pytest.mark.parametrize("text", ["", " ", ",", "a,", ",a", "a,,b", '"a', '"a"b', '"a",', '""'])
def test_wrong_names(text: str) -> None:
    with pytest.raises(UsageError, match="--only"):
        names("--only", [text])


def test_finite() -> None:
    assert finite("--max-drop", 1.0) == 1.0
    assert finite("--max-drop", None) is None
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(UsageError, match="--max-drop"):
            finite("--max-drop", value)
