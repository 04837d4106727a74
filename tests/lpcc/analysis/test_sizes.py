from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lpcc.analysis import sizes
from lpcc.analysis.sizes import Size

UNKNOWNS = {1: 2, 2: 3, 3: 7}


def value(size):
    """Value of a size where the unknowns are what `UNKNOWNS` says."""
    if not isinstance(size, Size):
        return size
    total = 0
    for unknowns, factor in size.terms:
        for number in unknowns:
            factor *= UNKNOWNS[number]
        total += factor
    return total


plain = st.one_of(st.integers(-20, 20), st.sampled_from([sizes.unknown(n) for n in UNKNOWNS]))
expressions = st.recursive(
    plain,
    lambda inner: st.builds(lambda op, a, b: op(a, b), st.sampled_from([sizes.add, sizes.multiply]), inner, inner),
    max_leaves=6,
)


@given(expressions, expressions)
def test_arithmetic(a, b):
    assert value(sizes.add(a, b)) == value(a) + value(b)
    assert value(sizes.multiply(a, b)) == value(a) * value(b)
    assert value(sizes.negate(a)) == -value(a)
    assert value(sizes.product([a, b, 2])) == value(a) * value(b) * 2


@given(expressions, expressions)
def test_one_form(a, b):
    assert sizes.add(a, b) == sizes.add(b, a)
    assert sizes.multiply(a, b) == sizes.multiply(b, a)
    assert sizes.add(sizes.add(a, b), sizes.negate(b)) == a
    assert sizes.add(a, sizes.negate(a)) == 0


@given(expressions, expressions)
def test_division_is_exact_or_not_done(a, b):
    quotient = sizes.divide(a, b)
    if quotient is not None and not (isinstance(a, int) and isinstance(b, int)):
        assert value(quotient) * value(b) == value(a) or value(b) == 0


@given(expressions, expressions)
def test_division_undoes_a_product(a, b):
    if isinstance(b, Size) and len(b.terms) == 1 and a != 0:  # 0 / 0 is not 0
        assert sizes.divide(sizes.multiply(a, b), b) == a


@given(expressions)
def test_nonnegative(a):
    if isinstance(a, Size) and a.is_nonnegative:
        assert value(a) >= 0


def test_plain_division_cuts_off():
    assert sizes.divide(7, 2) == 3
    assert sizes.divide(-7, 2) == -3
    assert sizes.divide(7, 0) is None
    assert sizes.divide(sizes.unknown(1), 2) is None


def test_unknown_and_too_large():
    assert sizes.add(None, 1) is None
    assert sizes.product([2, None]) is None
    assert sizes.multiply(2**40, 2**40) is None
