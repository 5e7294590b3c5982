"""The program against brute force over every combination."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.search.allocate import Cost, Face, allocate, outer, whole

GAP = 1e-3


def random_cost(drawn, options, products):
    """A cost with a tensor for every unit and for some sets of two and three of them, some options of a unit alike."""
    cost = Cost(constant=float(drawn.uniform(0, 2)))
    for units in products:
        faces = tuple(random_face(drawn, unit, options[unit]) for unit in units)
        cost.add(faces, drawn.uniform(0.1, 1, [face.size for face in faces]))
    return cost


def random_face(drawn, unit, options):
    if drawn.integers(2):
        return whole(unit, options)
    classes = [int(c) for c in drawn.integers(0, options, options)]
    places = {c: i for i, c in enumerate(dict.fromkeys(classes))}
    return Face(unit, tuple(places[c] for c in classes))


@st.composite
def problems(draw):
    options = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    drawn = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    places = range(len(options))
    sets = [c for size in (1, 2, 3) for c in itertools.combinations(places, size)]
    objective = random_cost(drawn, options, [(u,) for u in places])
    limits = []
    for _ in range(draw(st.integers(0, 3))):
        products = draw(st.lists(st.sampled_from(sets), min_size=1, max_size=5))
        cost = random_cost(drawn, options, products)
        values = [cost.at(choice) for choice in itertools.product(*map(range, options))]
        share = draw(st.floats(-0.1, 1.1))
        limits.append((cost, min(values) + share * (max(values) - min(values))))
    return options, objective, limits


@given(problems())
@settings(max_examples=60, deadline=None)
def test_the_allocation_is_the_best_of_all_combinations(problem):
    options, objective, limits = problem
    within = [
        choice
        for choice in itertools.product(*map(range, options))
        if all(cost.at(choice) <= bound + 1e-6 * abs(bound) for cost, bound in limits)
    ]
    found = allocate(objective, limits, options)
    if not within:
        assert found is None
        return
    clearly = any(all(cost.at(c) <= bound - 1e-6 * abs(bound) for cost, bound in limits) for c in within)
    if found is None:
        assert not clearly
        return
    assert tuple(found) in within
    least = min(objective.at(choice) for choice in within)
    # The gap is relative to the objective without its constant, which the program does not see.
    assert objective.at(found) <= least + GAP * (least - objective.constant) + 1e-9


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 2**32 - 1), st.data())
def test_a_cost_at_a_choice_is_the_sum_of_its_entries(options, seed, data):
    drawn = np.random.default_rng(seed)
    vectors = {u: drawn.normal(size=n) for u, n in enumerate(options)}
    places = range(len(options))
    products = data.draw(st.lists(st.sets(st.sampled_from(places)).map(lambda s: tuple(sorted(s))), max_size=6))
    cost = Cost()
    for units in products:
        cost.add(tuple(whole(u, options[u]) for u in units), outer([vectors[u] for u in units]))
    choice = [data.draw(st.integers(0, n - 1)) for n in options]
    expected = sum(float(np.prod([vectors[u][choice[u]] for u in units])) for units in products)
    assert cost.at(choice) == pytest.approx(expected, abs=1e-12)


def test_without_limits_the_least_of_a_product_is_taken():
    cost = Cost()
    cost.add((whole(0, 2), whole(1, 2)), np.array([[4.0, 3.0], [2.0, 5.0]]))
    assert allocate(cost, [], [2, 2]) == [1, 0]


def test_a_bound_of_nothing_is_infeasible_and_does_not_disturb_the_solver():
    cost = Cost()
    cost.add((whole(0, 2),), np.array([1.0, 2.0]))
    assert allocate(cost, [(cost, 0.0)], [2]) is None
    assert allocate(cost, [(cost, -5.0)], [2]) is None
    free = Cost()
    free.add((whole(0, 2),), np.array([0.0, 2.0]))
    assert allocate(cost, [(free, 0.0)], [2]) == [0]


def test_the_same_problem_gives_the_same_choice():
    drawn = np.random.default_rng(7)
    options = [5] * 6
    objective = random_cost(drawn, options, [(u,) for u in range(6)])
    cost = random_cost(drawn, options, [(u, u + 1) for u in range(5)])
    choices = [allocate(objective, [(cost, 2.5 + cost.constant)], options) for _ in range(3)]
    assert choices[0] is not None
    assert choices[0] == choices[1] == choices[2]
