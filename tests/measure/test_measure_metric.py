import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn

from trimtab.errors import NumericsError, TaskError
from trimtab.measure import Evaluation, bootstrap_drop, drop_of, evaluate, higher_is_better


def accuracy(outputs, target):
    return (outputs.argmax(1) == target).double().mean()


def loader(sizes=(5, 7, 2), width=3):
    return [(torch.randn(size, width), torch.randint(4, (size,))) for size in sizes]


def test_the_metric_sees_all_rows_at_once():
    model, rows = nn.Linear(3, 4), loader()
    seen = []

    def spy(outputs, target):
        seen.append((outputs, target))
        return 0.25

    found = evaluate(model, rows, spy)
    assert found.value == 0.25
    assert len(seen) == 1
    assert torch.equal(found.targets, torch.cat([y for _, y in rows]))
    torch.testing.assert_close(found.outputs, model(torch.cat([x for x, _ in rows])))
    assert not found.outputs.requires_grad
    F.mse_loss(model(torch.cat([x for x, _ in rows])), found.outputs).backward()


def test_it_runs_in_eval_mode_and_puts_the_modes_back():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].eval()
    before = model[1].running_mean.clone()
    evaluate(model, loader(), accuracy)
    assert torch.equal(model[1].running_mean, before)
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


@pytest.mark.parametrize("form", [dict, tuple])
def test_inputs_and_outputs_may_have_structure(form):
    def forward(a, b):
        return {"sum": a + b, "parts": (a, b)}

    batches = []
    for size in (2, 3):
        a, b = torch.randn(size, 2), torch.randn(size, 2)
        batches.append(({"b": b, "a": a} if form is dict else (a, b), a + b))
    found = evaluate(forward, batches, lambda outputs, target: (outputs["sum"] == target).float().mean())
    assert found.value == 1.0
    assert found.outputs["parts"][0].shape == (5, 2)


def test_a_torchmetrics_metric_agrees_with_numpy_and_keeps_its_state():
    metric = torchmetrics.MeanAbsoluteError()
    metric.update(torch.tensor([1.0]), torch.tensor([4.0]))
    model = nn.Linear(3, 1)
    rows = [(torch.randn(6, 3), torch.randn(6, 1)) for _ in range(2)]
    found = evaluate(model, rows, metric)
    expected = np.abs(found.outputs.numpy() - torch.cat([y for _, y in rows]).numpy()).mean()
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert metric.compute() == 3.0
    assert not higher_is_better(metric)
    assert higher_is_better(accuracy)
    assert higher_is_better(torchmetrics.classification.MulticlassAccuracy(num_classes=4))


def test_what_goes_wrong_is_said():
    rows = loader()
    with pytest.raises(NumericsError, match=r"NaN in the outputs for batch 0, inputs float32\[5, 3\]"):
        evaluate(lambda x: x * torch.nan, rows, accuracy)
    with pytest.raises(TaskError, match="the loader is empty"):
        evaluate(nn.Identity(), [], accuracy)
    with pytest.raises(TaskError, match=r"it raised RuntimeError for outputs float32\[14, 3\] and targets int64\[14\]"):
        evaluate(nn.Identity(), rows, lambda outputs, target: outputs @ target)
    with pytest.raises(TaskError, match=r"must give one number, got bool\[14\]"):
        evaluate(nn.Identity(), rows, lambda outputs, target: outputs.argmax(1) == target)
    with pytest.raises(TaskError, match="must give one number, got str"):
        evaluate(nn.Identity(), rows, lambda outputs, target: "good")
    with pytest.raises(NumericsError, match="it is nan"):
        evaluate(nn.Identity(), rows, lambda outputs, target: outputs.sum() / 0 * 0)


def evaluation(outputs, targets, metric):
    return Evaluation(value=float(metric(outputs, targets)), outputs=outputs, targets=targets)


def one_hot(classes):
    return F.one_hot(classes, 4).float()


def test_the_interval_is_that_of_the_paired_differences():
    """For a mean over rows, the bootstrap's interval is nearly the normal one of the row differences."""
    generator = torch.Generator().manual_seed(1)
    rows = 2000
    targets = torch.randint(4, (rows,), generator=generator)
    wrong = (targets + 1) % 4
    before = torch.where(torch.rand(rows, generator=generator) < 0.9, targets, wrong)
    after = torch.where(torch.rand(rows, generator=generator) < 0.97, before, (before + 2) % 4)
    drop = bootstrap_drop(
        evaluation(one_hot(before), targets, accuracy), evaluation(one_hot(after), targets, accuracy), accuracy
    )
    differences = (before == targets).numpy().astype(float) - (after == targets).numpy().astype(float)
    half = 1.96 * differences.std() / np.sqrt(rows)
    assert drop.value == pytest.approx(differences.mean())
    assert drop.ci95[0] == pytest.approx(differences.mean() - half, abs=0.25 * half)
    assert drop.ci95[1] == pytest.approx(differences.mean() + half, abs=0.25 * half)


def test_the_same_network_has_no_drop_and_a_worse_one_has_whatever_the_direction():
    targets = torch.randn(50, 1)
    good, bad = targets + 0.1 * torch.randn(50, 1), targets + 3 + torch.randn(50, 1)
    error = torchmetrics.MeanAbsoluteError()
    one, two = (Evaluation(value=float((x - targets).abs().mean()), outputs=x, targets=targets) for x in (good, bad))
    assert bootstrap_drop(one, one, error, resamples=50).ci95 == (0.0, 0.0)
    worse = bootstrap_drop(one, two, error, resamples=50)
    assert worse.value > 0
    assert 0 < worse.ci95[0] < worse.ci95[1]
    better = bootstrap_drop(two, one, error, resamples=50)
    assert better.value == -worse.value
    assert bootstrap_drop(one, two, error, resamples=50) == worse
    assert bootstrap_drop(one, two, error, seed=1, resamples=50).ci95 != worse.ci95


def test_a_drop_of_exactly_the_limit_keeps_it():
    assert 0.98 - 0.97 > 0.01
    assert drop_of(0.98, 0.97, accuracy) == 0.01
    assert drop_of(0.97, 0.98, torchmetrics.MeanAbsoluteError()) == 0.01


def test_resamples_without_a_value_are_left_out_unless_they_are_many():
    def nan_without(least):
        return lambda outputs, target: float("nan") if target.min() > least else outputs.mean().item()

    targets, outputs = torch.arange(20), torch.randn(20)
    same = Evaluation(value=0.0, outputs=outputs, targets=targets)
    assert bootstrap_drop(same, same, nan_without(4), resamples=100).ci95 == (0.0, 0.0)
    with pytest.raises(NumericsError, match="of 100 resamples"):
        bootstrap_drop(same, same, nan_without(0), resamples=100)
    with pytest.raises(TaskError, match="the same rows, got 20 and 3"):
        bootstrap_drop(same, Evaluation(value=0.0, outputs=outputs[:3], targets=targets[:3]), accuracy)
