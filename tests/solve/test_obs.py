"""What leaves a layer: surgery, swaps that know the codes and SparseGPT, against brute force and the textbook."""

import sys
from itertools import product

import pytest
import torch
from codes import error, problem, to_integers
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.plan import Kernels, NofM, Tiles, Weights
from trimtab.prune.granularity import keep, pieces
from trimtab.solve import on_survivors, pieces_of, removals, sparsegpt, surgery, swap

SPARSITIES = {
    "weights": Weights(fraction=0.4),
    "2:4": NofM(kept=2, of=4),
    "1:2": NofM(kept=1, of=2),
    "tiles": Tiles(shape=(2, 2), fraction=0.5),
    "columns": Tiles(shape=(4, 1), fraction=0.5),
    "kernels": Kernels(fraction=0.5),
}


@pytest.mark.parametrize(
    ("size", "rows", "quota"),
    [(1, 1, None), (2, 1, None), (2, 2, None), (1, 1, (2, 4)), (1, 1, (1, 2)), (2, 1, (1, 2))],
)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=5, deadline=None)
def test_every_block_that_leaves_is_the_one_that_brute_force_takes(size, rows, quota, seed):
    weight, gram, cross = problem(seed, groups=2, n=8, m=4)
    order, rise = removals(weight.unflatten(1, (-1, rows)), gram, size, quota)
    for group, band in product(range(2), range(4 // rows)):
        here = slice(group, group + 1), slice(band * rows, (band + 1) * rows)
        alive, now = set(range(8 // size)), error(weight[here], gram[here[0]], cross[here])
        for chosen, rises in zip(order[group, band].tolist(), rise[group, band].tolist(), strict=True):
            after = {}
            for block in alive:
                kept = torch.zeros(1, rows, 8, dtype=torch.bool)
                for other in alive - {block}:
                    kept[..., other * size : (other + 1) * size] = True
                shares = [other for other in alive if quota and other // quota[1] == block // quota[1]]
                if not quota or len(shares) > quota[0]:
                    solved = on_survivors(gram[here[0]], cross[here], kept)
                    after[block] = error(solved, gram[here[0]], cross[here])
            assert after[chosen] == pytest.approx(min(after.values()), abs=1e-9)
            assert rises == pytest.approx(after[chosen] - now, abs=1e-9)
            now = after[chosen]
            alive.remove(chosen)
        assert len(alive) == (8 // size // quota[1] * quota[0] if quota else 0)


def test_large_matrices_are_solved_as_small_ones_are(monkeypatch):
    """Bands in parts, and what is gone taken out of the matrices on the way."""
    weight, gram, _ = problem(1, groups=2, n=40, m=6)
    expected = removals(weight[:, :, None], gram, 1)
    monkeypatch.setattr("trimtab.solve.obs._CACHED", 2 * 40**2)
    monkeypatch.setattr("trimtab.solve.obs._COMPACTIONS", 1)
    found = removals(weight[:, :, None], gram, 1)
    assert torch.equal(expected[0], found[0])
    torch.testing.assert_close(expected[1], found[1])


@pytest.mark.parametrize("kind", SPARSITIES)
@pytest.mark.parametrize("shape", [(4, 8), (8, 4, 3, 3), (8, 4, 3)])
def test_what_stays_has_the_layout_of_the_sparsity(kind, shape):
    groups = 1 if len(shape) == 2 else 2
    sparsity = SPARSITIES[kind]
    weight, gram, _ = problem(2, groups, torch.Size(shape[1:]).numel(), shape[0] // groups)
    kept = surgery(weight, gram, pieces_of("x", torch.Size(shape), groups, sparsity)).reshape(shape)
    assert kept.sum() == keep(torch.rand(shape), sparsity).sum()
    counts = pieces(kept.double(), sparsity)
    if isinstance(sparsity, NofM):
        assert (counts == sparsity.kept).all()
    else:
        assert {*counts.unique().tolist()} == {0.0, counts.max().item()}


def test_rows_share_what_leaves_where_it_costs_least():
    weight, gram, _ = problem(4, n=6, m=2)
    weight[:, 1] *= 1e-3
    kept = surgery(weight, gram, pieces_of("x", torch.Size((2, 6)), 1, Weights(fraction=0.5)))
    assert kept[0, 0].all()
    assert not kept[0, 1].any()


def test_tiles_across_groups_are_refused():
    with pytest.raises(ConfigError, match=r"conv: a tile of 4 rows .* groups of 2; choose fewer rows"):
        pieces_of("conv", torch.Size((8, 4, 3, 3)), 4, Tiles(shape=(4, 1), fraction=0.5))


@pytest.mark.parametrize("of", [None, 4])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_swaps_never_rise_and_end_where_no_single_one_helps(of, seed):
    weight, gram, cross = problem(seed, groups=2, n=8, m=4)
    kept = torch.zeros_like(weight, dtype=torch.bool)
    kept[:, :, [0, 2, 5, 7]] = True
    start = to_integers(weight, None) * kept
    sharing = None if of is None else torch.arange(8).view(2, 4)
    found, stays = swap(start, gram, cross, to_integers, kept, sharing)
    assert torch.equal(found, to_integers(found, None) * stays)
    assert (stays.sum(-1) == 4).all()
    if of:
        assert (stays.view(2, 4, 2, 4).sum(-1) == 2).all()
    least = error(found, gram, cross)
    assert least <= error(start, gram, cross) + 1e-12
    for group, row in product(range(2), range(4)):
        for goes, comes in product(stays[group, row].nonzero().flatten(), (~stays[group, row]).nonzero().flatten()):
            for code in range(-2, 3) if not of or goes // 4 == comes // 4 else ():
                other = found.clone()
                other[group, row, goes], other[group, row, comes] = 0, code
                assert error(other, gram, cross) >= least - 1e-6


@pytest.mark.parametrize("quota", [None, (2, 4)])
@pytest.mark.parametrize("nearest", [None, to_integers])
def test_sparsegpt_is_the_textbooks_loop_over_columns(quota, nearest, monkeypatch):
    monkeypatch.setattr(sys.modules["trimtab.solve.gptq"], "BLOCK", 6)
    n = 12
    weight, gram, _ = problem(5, n=n, m=3)
    found = sparsegpt(weight, gram, 0.5, quota, nearest, damping=0.0)[0]
    left, gone = weight[0].clone(), torch.zeros(3, n, dtype=torch.bool)
    width = quota[1] if quota else 6
    inverses = [torch.linalg.inv(gram[0][at:, at:]) for at in range(n)]
    for at in range(n):
        if at % width == 0:
            scores = torch.stack([left[:, j].square() / inverses[j][0, 0] for j in range(at, at + width)], 1)
            order = scores.argsort(1) if quota else scores.flatten().argsort()
            part = gone[:, at : at + width]
            if quota:
                part.scatter_(1, order[:, : quota[1] - quota[0]], True)
            else:
                part.copy_(
                    torch.zeros(3 * width, dtype=torch.bool).scatter_(0, order[: 3 * width // 2], True).view(3, -1)
                )
        value = left[:, at] if nearest is None else nearest(left[:, at], None)
        value = value.masked_fill(gone[:, at], 0.0)
        left[:, at:] -= ((left[:, at] - value) / inverses[at][0, 0])[:, None] * inverses[at][0]
        left[:, at] = value
    torch.testing.assert_close(found, left, atol=1e-8, rtol=1e-8)
