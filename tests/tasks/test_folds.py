"""Folds: every row is looked at once, and trained on in all the others."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trimtab.errors import TaskError
from trimtab.recover.seeding import seeded
from trimtab.tasks import Task, folds


def task_of(train, val, size=4):
    """Rows that are numbered: train 0, 1, …, then val; the target is ten times the row."""

    def batches(begin, rows):
        numbers = torch.arange(begin, begin + rows, dtype=torch.float32).split(size)
        return [({"x": part[:, None], "y": part[:, None, None]}, 10 * part) for part in numbers if len(part)]

    return Task(
        model=nn.Linear(1, 1),
        train=batches(0, train),
        val=batches(train, val),
        test=batches(-5, 5),
        loss=nn.functional.mse_loss,
        metric=lambda outputs, target: 0.0,
        name="numbered",
    )


def rows_of(loader):
    for inputs, target in loader:
        assert torch.equal(inputs["x"][:, 0], inputs["y"][:, 0, 0])
        assert torch.equal(10 * inputs["x"][:, 0], target)
    return [row for _, target in loader for row in (target / 10).tolist()]


@given(st.integers(1, 30), st.integers(1, 9), st.integers(2, 6), st.integers(0, 3))
def test_every_row_is_held_out_once(train, val, k, seed):
    whole = task_of(train, val)
    if train + val < k:
        with pytest.raises(TaskError, match=f"train and val have {train + val} rows, too few for {k} folds"):
            folds(whole, k, seed)
        return
    found = folds(whole, k, seed)
    held = [rows_of(fold.val) for fold in found]
    assert sorted(chain.from_iterable(held)) == list(range(train + val))
    assert max(map(len, held)) - min(map(len, held)) <= 1
    for fold, own in zip(found, held, strict=True):
        trained = rows_of(fold.train)
        assert len(set(trained)) == len(trained)
        assert not set(trained) & set(own)
        others = train + val - len(own)
        size = min(4, max(train, val))
        assert len(trained) == (others // size * size if others > size else others)  # no batch of a few rows
        assert fold.test is whole.test
    again = folds(whole, k, seed)
    assert [rows_of(fold.val) for fold in again] == held


def test_another_seed_deals_otherwise_and_every_epoch_has_its_order():
    first, second = (folds(task_of(40, 10), 5, seed)[0] for seed in (0, 1))
    assert rows_of(first.val) != rows_of(second.val)
    orders = []
    for epoch in (0, 1, 0):
        with seeded(7, epoch, first.train):
            orders.append([target.tolist() for _, target in first.train])
    assert orders[0] == orders[2] != orders[1]


def test_long_data_is_refused(monkeypatch):
    monkeypatch.setitem(folds.__globals__, "_MOST_BYTES", 100)
    with pytest.raises(TaskError, match=r"numbered.*folds are for short data, leave them out"):
        folds(task_of(40, 10), 5)
