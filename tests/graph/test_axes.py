"""The algebra of axes against brute force on position labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.graph.axes import (
    Axis,
    Freeze,
    MisfitError,
    cut_right,
    freeze,
    fresh,
    is_free,
    join,
    leaves,
    resolve,
    segments,
    size,
    split,
    unify,
    why_frozen,
)
from trimtab.graph.kept import Kept

WHY = Freeze(operator="test", reason="because", source="here")


def test_an_empty_product_has_size_one() -> None:
    assert fresh(1) == ()
    assert size(()) == 1
    assert Kept({}).positions(()).tolist() == [0]


def test_split_inner_of_a_sum_divides_every_segment() -> None:
    q, k, v = split(fresh(24), (8, 8, 8), WHY)
    whole = join([q, k, v])
    outer, inner = cut_right(whole, 8, WHY)
    assert (size(outer), size(inner)) == (3, 8)
    assert not is_free(outer)  # three segments of one position each
    assert resolve(q) == resolve(k) == resolve(v) == resolve(inner)


def test_a_factor_across_an_axis_does_not_fit() -> None:
    with pytest.raises(MisfitError, match="across"):
        cut_right((Axis(6), Axis(4)), 3, WHY)


def test_unify_splits_the_bigger() -> None:
    a, b = (Axis(6),), (Axis(2), Axis(3))
    unify(a, b, WHY)
    assert resolve(a) == resolve(b)
    assert [axis.size for axis in resolve(a)] == [2, 3]


def test_unify_of_sums_takes_the_union_of_borders() -> None:
    a, b = join([fresh(4), fresh(6)]), join([fresh(7), fresh(3)])
    unify(a, b, WHY)
    assert resolve(a) == resolve(b)
    assert [size(part) for part in segments(resolve(a)[0])] == [4, 3, 3]


def test_a_frozen_side_freezes_the_other_without_linking() -> None:
    a, b, c = fresh(6), fresh(6), fresh(6)
    freeze(a, WHY)
    unify(b, a, WHY)
    unify(c, a, WHY)
    assert why_frozen(b) is WHY
    assert why_frozen(c) is WHY
    assert resolve(b) != resolve(c)


@pytest.mark.parametrize("swap", [False, True])
def test_a_frozen_whole_freezes_the_factors_that_it_meets(swap: bool) -> None:
    whole, factors = fresh(24), (Axis(2, frozen=WHY), Axis(3), Axis(4))
    freeze(whole, WHY)
    unify(*((factors, whole) if swap else (whole, factors)), WHY)
    assert not is_free(factors)
    assert not is_free(whole)


def test_a_frozen_whole_that_does_not_divide_freezes_too() -> None:
    whole, factors = (Axis(2), Axis(6, frozen=WHY)), (Axis(3), Axis(4))
    unify(whole, factors, WHY)
    assert not is_free(factors)


def test_a_frozen_segment_leaves_the_others_free() -> None:
    x = fresh(10)
    left, right = split(x, (4, 6), WHY)
    freeze(left, WHY)
    assert is_free(x)
    assert is_free(right)
    assert [atom.frozen is None for atom in leaves(x)] == [False, True]


def test_what_cannot_be_expressed_freezes_both() -> None:
    a, b = (Axis(6), Axis(4)), (Axis(8), Axis(3))
    unify(a, b, WHY)
    assert not is_free(a)
    assert not is_free(b)


def test_neighbouring_frozen_factors_are_one() -> None:
    c, h, w = fresh(5), fresh(4), fresh(3)
    freeze(h, WHY)
    freeze(w, WHY)
    flat = (Axis(60),)
    unify(flat, (*c, *h, *w), WHY)
    assert resolve(flat)[0] is resolve(c)[0]
    assert cut_right((*c, *h, *w), 6, WHY)[1][0].size == 6


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(MisfitError, match="meet"):
        unify(fresh(3), fresh(4), WHY)


@st.composite
def dims(draw: st.DrawFn, total: int) -> tuple[Axis, ...]:
    """A dimension of `total` positions made by random splits into products and sums."""
    dim = fresh(total)
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            n = draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
            try:
                cut_right(dim, n, WHY)
            except MisfitError:
                continue
        else:
            at = draw(st.integers(1, total - 1))
            try:
                split(dim, (at, total - at), WHY)
            except MisfitError:
                continue
    return dim


@given(st.data(), st.sampled_from([4, 6, 8, 12, 24]))
def test_unified_dimensions_lose_the_same_positions(data: st.DataObject, total: int) -> None:
    a, b = data.draw(dims(total)), data.draw(dims(total))
    unify(a, b, WHY)
    atoms = [atom for atom in dict.fromkeys((*leaves(a), *leaves(b))) if atom.frozen is None]
    units = {
        atom: data.draw(st.lists(st.integers(0, atom.size - 1), min_size=1, unique=True), label="kept")
        for atom in atoms
    }
    kept = Kept(units)
    assert kept.positions(a).tolist() == kept.positions(b).tolist()
    assert kept.size(a) == len(kept.positions(a))


@given(st.data(), st.sampled_from([6, 8, 12, 24]))
def test_runs_keep_what_the_whole_keeps(data: st.DataObject, total: int) -> None:
    dim = data.draw(dims(total))
    at = data.draw(st.integers(0, total))
    try:
        left, right = split(dim, (at, total - at), WHY)
    except MisfitError:
        return
    units = {
        atom: data.draw(st.lists(st.integers(0, atom.size - 1), min_size=1, unique=True))
        for atom in dict.fromkeys(leaves(dim))
        if atom.frozen is None
    }
    kept = Kept(units)
    together = [*kept.positions(left).tolist(), *(kept.positions(right) + at).tolist()]
    assert together == kept.positions(dim).tolist()
