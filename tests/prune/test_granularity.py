"""Granularity against loops over single pieces: the right number leaves, the right ones, and as wholes."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimtab.errors import PlanError
from trimtab.plan import Kernels, NofM, Sparsity, Tiles, Weights
from trimtab.prune.granularity import check, keep, piece_count, pieces


def members(shape: tuple[int, ...], sparsity: Sparsity) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """The entries of every piece, piece by piece, in order."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for entry in itertools.product(*map(range, shape)):
        out, inner, *kernel = entry
        match sparsity:
            case Weights():
                piece: tuple[int, ...] = entry
            case Kernels():
                piece = (out, inner)
            case Tiles(shape=(rows, columns)):
                piece = (out // rows, inner // columns, *kernel)
            case NofM(of=of):
                piece = (out, inner // of, *kernel)
        found.setdefault(piece, []).append(entry)
    return found


def expected(scores: Tensor, sparsity: Sparsity, share: float) -> Tensor:
    """What stays, by sorting lists."""
    stays = torch.ones(scores.shape, dtype=torch.bool)
    found = members(tuple(scores.shape), sparsity)
    if isinstance(sparsity, NofM):
        gone = round(share * (sparsity.of - sparsity.kept))
        for block in found.values():
            for entry in sorted(block, key=lambda e: (scores[e].item(), [-i for i in e]))[:gone]:
                stays[entry] = False
        return stays
    totals = {piece: math.fsum(scores[entry].item() for entry in entries) for piece, entries in found.items()}
    gone = round(sparsity.fraction * share * len(found))
    for piece in sorted(found, key=lambda p: (totals[p], [-i for i in p]))[:gone]:
        for entry in found[piece]:
            stays[entry] = False
    return stays


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Sparsity]:
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    kernel = draw(st.lists(st.integers(1, 3), max_size=2))
    shape = (rows * draw(st.integers(1, 4)), columns * draw(st.integers(1, 4)), *kernel)
    # Whole numbers: sums are exact, and many are equal.
    scores = torch.randint(draw(st.sampled_from((2, 10**6))), shape).double()
    fraction = draw(st.floats(0.01, 0.99))
    kinds: list[Sparsity] = [
        Weights(fraction=fraction),
        Kernels(fraction=fraction),
        Tiles(shape=(rows, columns), fraction=fraction),
    ]
    kinds += [NofM(kept=draw(st.integers(1, columns - 1)), of=columns)] if columns > 1 else []
    return scores, draw(st.sampled_from(kinds))


@given(cases(), st.floats(0, 1))
def test_the_lowest_leave_as_wholes_in_the_number_asked_for(case: tuple[Tensor, Sparsity], share: float) -> None:
    scores, sparsity = case
    number = len(members(tuple(scores.shape), sparsity))
    assert piece_count(scores.shape, sparsity) == number
    if not isinstance(sparsity, NofM) and round(sparsity.fraction * number) == number:
        with pytest.raises(PlanError, match="leaves nothing; remove at most"):
            keep(scores, sparsity, share)
        return
    assert torch.equal(keep(scores, sparsity, share), expected(scores, sparsity, share))
    assert torch.equal(keep(scores, sparsity), expected(scores, sparsity, 1.0))
    assert bool(keep(scores, sparsity, 0.0).all())


@given(cases())
def test_a_piece_scores_what_its_entries_add_up_to(case: tuple[Tensor, Sparsity]) -> None:
    scores, sparsity = case
    number = piece_count(scores.shape, sparsity)
    if not isinstance(sparsity, NofM) and round(sparsity.fraction * number) == number:
        return
    found = pieces(scores, sparsity)
    assert found.numel() == number
    for piece, entries in members(tuple(scores.shape), sparsity).items():
        assert found[piece].item() == sum(scores[entry].item() for entry in entries)


@given(cases(), st.floats(0, 1), st.floats(0, 1))
def test_what_leaves_at_a_small_share_leaves_at_a_larger_one(
    case: tuple[Tensor, Sparsity], one: float, other: float
) -> None:
    scores, sparsity = case
    if not isinstance(sparsity, NofM) and round(sparsity.fraction * piece_count(scores.shape, sparsity)) == 0:
        return
    try:
        early, late = keep(scores, sparsity, min(one, other)), keep(scores, sparsity, max(one, other))
    except PlanError:
        return
    assert bool((early | ~late).all())


def test_signed_scores_and_infinities_are_ranked() -> None:
    scores = torch.tensor([[-2.0, torch.inf, 0.5, -torch.inf]])
    assert keep(scores, Weights(fraction=0.5)).tolist() == [[False, True, True, False]]
    assert keep(scores, NofM(kept=1, of=2)).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize(
    ("shape", "sparsity", "message"),
    [
        ((8, 3, 3, 3), NofM(kept=2, of=4), r"2 of 4 needs inputs in multiples of 4, the weight is 8×3×3×3 .*divides 3"),
        ((6, 8), Tiles(shape=(4, 2), fraction=0.5), r"tiles of 4×2 do not divide the weight, which is 6×8"),
        ((8, 9), Tiles(shape=(4, 2), fraction=0.5), r"whose sides divide 8 and 9"),
        ((1, 3), Weights(fraction=0.9), r"0\.9 of 3 weights leaves nothing; remove at most 2 of them"),
        ((1, 2, 3, 3), Kernels(fraction=0.9), r"0\.9 of 2 kernels leaves nothing; remove at most 1"),
        ((4, 4), Tiles(shape=(4, 4), fraction=0.5), None),
        ((4, 4), Tiles(shape=(4, 4), fraction=0.6), r"0\.6 of 1 tiles leaves nothing"),
        ((7,), Weights(fraction=0.5), r"a weight has at least the dimensions out and in, got 7"),
    ],
)
def test_what_a_weight_cannot_reach_is_refused(shape: tuple[int, ...], sparsity: Sparsity, message: str | None) -> None:
    if message is None:
        check("conv", shape, sparsity)
        return
    with pytest.raises(PlanError, match=f"^conv: .*{message}") as caught:
        check("conv", shape, sparsity)
    assert "\n" not in str(caught.value)
