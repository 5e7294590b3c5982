"""Less training: fewer epochs, or the beginning of one."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.recover.seeding import seeded
from trimtab.tasks import Task
from trimtab.tasks.rows import batches_in
from trimtab.tasks.shorter import shortened


@pytest.fixture
def task():
    rows = TensorDataset(torch.arange(40).float()[:, None], torch.arange(40))
    loader = DataLoader(rows, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(7))
    return Task(
        model=nn.Linear(1, 2), train=loader, val=loader, test=None, loss=nn.CrossEntropyLoss(), metric=lambda o, t: 0.0
    )


@pytest.mark.parametrize(("steps", "epochs", "batches"), [(3, 1, 3), (10, 1, 10), (24, 2, 10), (31, 3, 10)])
def test_as_many_batches_as_were_asked_for(task, steps, epochs, batches):
    found, shorter = shortened(task, steps)
    assert found == epochs
    assert batches_in(shorter.train) == batches == len(list(shorter.train))
    assert shorter.val is task.val


def test_it_is_the_beginning_of_the_loader_in_the_same_order(task):
    _, shorter = shortened(task, 3)
    with seeded(5, 1, task.train):
        whole = [target.tolist() for _, target in task.train]
    for _ in range(2):
        with seeded(5, 1, shorter.train):
            assert [target.tolist() for _, target in shorter.train] == whole[:3]
