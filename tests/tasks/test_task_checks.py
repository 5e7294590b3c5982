from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab.errors import NumericsError, TaskError
from trimtab.tasks import Task, evaluating, split_test, validate


def rows(number=6, width=3):
    return [(torch.randn(number, width), torch.randint(2, (number,))) for _ in range(2)]


def a_task(**changed):
    parts = {
        "model": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        "train": rows(),
        "val": rows(),
        "test": rows(),
        "loss": F.cross_entropy,
        "metric": lambda outputs, target: 0.0,
        "name": "mine",
    }
    return Task(**(parts | changed))


def test_a_good_task_passes_and_its_model_is_left_as_it_was():
    task = a_task()
    task.model[1].eval()
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    validate(task)
    validate(replace(task, test=None))
    assert [module.training for module in task.model] == [True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "is empty"),
        ([torch.zeros(2, 3)], r"must give batches \(inputs, target\), got float32\[2, 3\]"),
        ([(torch.zeros(2, 3), torch.arange(3))], r"inputs float32\[2, 3\] and target int64\[3\]"),
        ([(torch.zeros(0, 3), torch.arange(0))], "has no rows"),
        ([(torch.zeros(2, 3), ["cat", "dog"])], "got str"),
        ([(torch.zeros(2, 5), torch.zeros(2).long())], r"the model raised RuntimeError for inputs float32\[2, 5\]"),
        ([(torch.zeros(2, 3), torch.zeros(2, 7))], r"the loss raised \w+ for outputs float32\[2, 2\] and target"),
    ],
)
def test_a_wrong_loader_is_named(split, loader, message):
    with pytest.raises(TaskError, match=message) as caught:
        validate(a_task(**{split: loader}))
    assert split in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loader_that_raises():
    class Broken:
        def __iter__(self):
            raise OSError("disk gone")

    with pytest.raises(TaskError, match="val raised OSError on its first batch: disk gone"):
        validate(a_task(val=Broken()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_must_be_finite(bad):
    x, y = rows()[0]
    x = x.clone()
    x[1, 2] = bad
    with pytest.raises(NumericsError, match=r"train: the inputs of the first batch: 1 of 18 values"):
        validate(a_task(train=[(x, y)]))
    task = a_task()
    with torch.no_grad():
        task.model[0].bias[0] = bad
    with pytest.raises(NumericsError, match=r"weight 0\.bias: 1 of 4"):
        validate(task)


def test_the_loss_must_be_one_finite_number():
    with pytest.raises(TaskError, match=r"scalar tensor, got float32\[6\]"):
        validate(a_task(loss=lambda outputs, target: F.cross_entropy(outputs, target, reduction="none")))
    with pytest.raises(TaskError, match="scalar tensor, got float"):
        validate(a_task(loss=lambda outputs, target: 1.0))
    with pytest.raises(NumericsError, match="the loss is nan"):
        validate(a_task(loss=lambda outputs, target: outputs.sum() * torch.nan))


def test_outputs_must_be_numbers():
    class Divides(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 2) / 0

    with pytest.raises(NumericsError, match="outputs hold NaN"):
        validate(a_task(model=Divides()))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("model", 3, "must be a torch.nn.Module, got int"),
        ("train", iter([]), "must be iterable again and again"),
        ("val", None, "must be iterable again and again"),
        ("loss", 0.5, "loss must be callable, got float"),
        ("metric", None, "metric must be callable"),
    ],
)
def test_a_task_is_checked_when_it_is_built(part, value, message):
    with pytest.raises(TaskError, match=message):
        a_task(**{part: value})


def numbered(sizes):
    """Batches whose rows carry their own number, as inputs and as target."""
    batches, start = [], 0
    for size in sizes:
        index = torch.arange(start, start + size)
        batches.append(({"x": index[:, None].float()}, index))
        start += size
    return batches


@pytest.mark.parametrize("sizes", [(8, 8), (5, 7, 1), (1, 1, 1, 1)])
def test_the_carved_test_split_is_half_of_val(sizes):
    task, note = split_test(a_task(val=numbered(sizes), test=None))
    parts = [torch.cat([y for _, y in split]) for split in (task.val, task.test)]
    assert sorted(torch.cat(parts).tolist()) == list(range(sum(sizes)))
    assert len(parts[1]) == sum(sizes) // 2
    assert f"{sum(sizes) // 2} of the {sum(sizes)} rows" in note
    assert all(torch.equal(x["x"][:, 0].long(), y) for split in (task.val, task.test) for x, y in split)
    again, _ = split_test(a_task(val=numbered(sizes), test=None))
    assert torch.equal(parts[1], torch.cat([y for _, y in again.test]))


def test_the_carved_split_is_a_random_half():
    halves = [split_test(a_task(val=numbered((64,)), test=None), seed=seed)[0].test[0][1] for seed in (0, 1)]
    assert halves[0].tolist() != halves[1].tolist()


def test_a_given_test_split_stays():
    task = a_task()
    assert split_test(task) == (task, "")
    with pytest.raises(TaskError, match="val has 1 rows, too few"):
        split_test(a_task(val=numbered((1,)), test=None))


def test_evaluating_puts_the_mode_back_after_an_error():
    model = nn.Dropout()

    def fail():
        with evaluating(model):
            assert not model.training
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert model.training
