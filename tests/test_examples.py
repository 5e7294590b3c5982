"""Every example is a task that can be captured, on its real data. Nothing is trained: baselines take minutes."""

import math
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from trimtab.graph import capture
from trimtab.measure import evaluate, first_rows
from trimtab.report.behaviour import CHECKS, Compared, behaviour
from trimtab.report.behaviour.compared import first
from trimtab.tasks import load_task, validate
from trimtab.tasks.task import call

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")


@pytest.fixture
def untrained(monkeypatch):
    """Baselines as they are initialized."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(import_module("common"), "kept", lambda name, make, train: make().eval())
    yield
    for name in (*NAMES, "common"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_task_that_can_be_captured(name, untrained):
    task = load_task(str(EXAMPLES / f"{name}.py"))
    validate(task)
    network = capture(task.model, first_rows(task.train, 3))
    inputs, target = next(iter(task.test))
    with torch.no_grad():
        assert isinstance(float(task.metric(call(network, inputs), target)), float)
    assert network.groups


@pytest.mark.parametrize("name", ["movielens", "news_lstm", "two_towers", "turbofan"])
def test_every_check_of_the_behaviour_is_made_or_left_out_with_a_reason(name, untrained):
    """Sequences, ids, several inputs, regressions: beside a network that moved a little."""
    task = load_task(str(EXAMPLES / f"{name}.py"))
    few = {split: first(getattr(task, split), 120) for split in ("train", "val", "test")}
    task = replace(task, **few)
    network = capture(task.model, first_rows(task.train, 3))
    moved = network.clone()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.02 * parameter.std(correction=0) * torch.randn_like(parameter)
    evaluated = tuple(evaluate(each, task.test, task.metric) for each in (network, moved))
    both = {"before": network, "after": moved, "original": network, "trained": moved}
    found = behaviour(Compared(task=task, evaluated=evaluated, seed=0, **both))
    assert {check.name for check in found.checks} | set(found.left_out) == set(CHECKS)
    assert all(math.isfinite(check.measured) and check.measured >= 0 for check in found.checks)
    assert "agreement" not in found.left_out
    assert not any("attribution failed" in reason for reason in found.left_out.values())


def test_a_baseline_is_trained_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    common = import_module("common")
    monkeypatch.setattr(common, "BASELINES", tmp_path / "baselines")
    x = torch.randn(64, 4)
    data = common.Batches(x, (x[:, 0] > 0).long(), batch=16, shuffle=True)
    make = lambda: torch.nn.Linear(4, 2)  # noqa: E731
    loss = torch.nn.functional.cross_entropy
    first = common.baseline("one", make, data, loss, epochs=20, rate=0.1)
    assert common.accuracy(first(x), data.tensors[1]) > 0.9
    monkeypatch.setattr(common, "_fit", None)
    second = common.baseline("one", make, data, loss, epochs=20, rate=0.1)
    assert torch.equal(first.weight, second.weight)
    with pytest.raises(common.TaskError, match=r"one\.safetensors is of another model; delete it"):
        common.baseline("one", lambda: torch.nn.Linear(5, 2), data, loss, epochs=20)
    sys.modules.pop("common", None)
