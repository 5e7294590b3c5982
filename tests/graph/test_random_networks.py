"""Random networks: cut equals masked wherever a group says that it is exact, and elsewhere but for the norms."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_nets import IMAGE_MOVES, MOVES, PICKS, SEQUENCE_MOVES, Program, built, drawn, random_network
from torch.utils import _pytree as pytree

from trimtab.graph import Network, capture, cut, verify
from trimtab.tasks.task import call

EXAMPLES = settings().max_examples if settings().max_examples >= 1000 else 40
STATISTICS = "mean and variance are taken over its units"

programs = st.builds(
    Program,
    st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, PICKS - 1)), min_size=1, max_size=8),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 3),
)


@pytest.mark.timeout(60 + 10 * EXAMPLES)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs, st.randoms(use_true_random=False))
def test_cut_equals_masked(program: Program, chance: random.Random) -> None:
    model, example = built(program)
    network = capture(model, example)
    expected = pytree.tree_leaves(call(model, example))
    for again in (network, cut(network, {})):
        found = pytree.tree_leaves(call(again, example))
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert "layers.head1" in {group.name for group in network.groups if group.exact}
    prove_at_random(network, chance)


def prove_at_random(network: Network, chance: random.Random) -> None:
    """All exact groups together and one alone; then all, where nothing but norms keeps them from being exact."""
    kept = {g.name: chance.sample(range(g.width), chance.randint(1, g.width)) for g in network.groups}
    exact = {g.name: kept[g.name] for g in network.groups if g.exact}
    one = chance.choice(list(exact))
    for some in (exact, {one: exact[one]}):
        proof = verify(network, some)
        assert proof.exact, (proof, some)
    if all(group.exact or group.reason.startswith(STATISTICS) for group in network.groups):
        proof = verify(network, kept)
        assert proof.max_abs_diff <= 1e-9, (proof, kept)


def test_a_seed_says_the_network() -> None:
    assert drawn(3) == drawn(3) != drawn(4)
    state = torch.get_rng_state()
    (a, x), (b, y) = random_network(3), random_network(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(pytree.tree_leaves(x), pytree.tree_leaves(y), strict=True))


def test_every_move_is_drawn() -> None:
    assert {step for seed in range(400) for step, _ in drawn(seed).steps} == {*MOVES}


@pytest.mark.parametrize("move", sorted({*IMAGE_MOVES, *SEQUENCE_MOVES}))
def test_every_move_does_something(move: str) -> None:
    for pick in range(PICKS):
        model, example = built(Program([(move, pick)], 1, move in SEQUENCE_MOVES, 0))
        call(model, example)
        before, after = model.past[0], model.past[-1]
        if before.shape != after.shape or not torch.equal(before, after):
            return
    raise AssertionError(move)
