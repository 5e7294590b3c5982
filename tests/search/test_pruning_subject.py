"""Subjects, their steps, and the queue of all steps, against lists and loops."""

from itertools import pairwise
from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.search.pruning.subject import Queue, Subject

SCORES = st.lists(st.integers(0, 20).map(lambda n: n / 4), min_size=1, max_size=30)


def subject(values, step=1, least=1, name="a"):
    return Subject(name=name, scores=torch.tensor(values, dtype=torch.float64), step=step, least=least)


def allowed(width, step, least):
    """Every number of pieces that may be left, most first."""
    kept = [n for n in range(width + 1) if n % step == 0 and n >= least] + [width]
    return sorted(set(kept), reverse=True)


@given(SCORES, st.integers(1, 8), st.integers(0, 9))
def test_steps_go_through_every_number_that_may_be_left(values, step, least):
    made = subject(values, step, least)
    left = [made.pieces - gone for gone in [0, *made.removals.tolist()]]
    assert left == allowed(len(values), step, max(least, 0))
    assert made.sizes.tolist() == [a - b for a, b in pairwise(left)]
    assert sum(made.sizes.tolist()) == made.pieces - left[-1]


@given(SCORES, st.integers(1, 8), st.integers(1, 9))
def test_a_step_scores_as_the_mean_of_the_pieces_it_removes(values, step, least):
    made = subject(values, step, least)
    ranked, at, means = sorted(values), 0, []
    for gone in made.removals.tolist():
        means.append(sum(ranked[at:gone]) / (gone - at))
        at = gone
    assert made.step_scores.tolist() == pytest.approx(means)
    assert made.step_scores.tolist() == sorted(made.step_scores.tolist())


@given(SCORES, st.integers(1, 5), st.integers(1, 6), st.floats(-1, 6))
def test_below_a_score_as_many_leave_as_steps_allow(values, step, least, score):
    low = sum(value < score for value in values)
    least_left = next(n for n in reversed(allowed(len(values), step, least)) if n >= len(values) - low)
    assert subject(values, step, least).below(score) == len(values) - least_left


@given(st.lists(st.tuples(SCORES, st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4), st.data())
def test_the_queue_removes_in_order_the_fewest_steps(made, data):
    subjects = [subject(values, step, least, name=str(i)) for i, (values, step, least) in enumerate(made)]
    queue = Queue(subjects, [s.step_scores for s in subjects])
    steps = sorted(
        (score, i, size)
        for i, s in enumerate(subjects)
        for score, size in zip(s.step_scores.tolist(), s.sizes.tolist(), strict=True)
    )
    assert len(queue) == len(steps)
    assert queue.most == sum(size for _, _, size in steps)
    if not steps:
        return
    wanted = data.draw(st.integers(1, queue.most))
    count, gone = 0, dict.fromkeys(range(len(subjects)), 0)
    while sum(gone.values()) < wanted:
        _, i, size = steps[count]
        gone[i] += size
        count += 1
    assert queue.steps_for(wanted) == count
    assert queue.removed(count) == {str(i): n for i, n in gone.items()}
    assert queue.removed(0) == {str(i): 0 for i in gone}
    assert [s.name for s in queue.latest(count)] == list(dict.fromkeys(str(i) for _, i, _ in reversed(steps[:count])))
    for _, i, size in {i: (s, i, size) for s, i, size in steps[:count]}.values():
        assert subjects[i].before(gone[i]) == gone[i] - size


def test_where_nothing_may_leave_the_queue_is_empty():
    queue = Queue([subject([1.0, 2.0], step=2, least=2)], [torch.zeros(0, dtype=torch.float64)])
    assert (len(queue), queue.most, queue.removed(0)) == (0, 0, {"a": 0})


def test_a_width_that_is_no_multiple_loses_its_remainder_first():
    assert subject(list(range(10)), step=4, least=3).removals.tolist() == [2, 6]
    assert ceil(3 / 4) * 4 == 4
