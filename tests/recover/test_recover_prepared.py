"""Networks that become sparse while they recover: what counts as best, what comes back, and what a kill changes."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from trimtab.errors import ConfigError, RunError
from trimtab.lower import onnxruntime
from trimtab.measure.metric import evaluate
from trimtab.plan import (
    Dynamic,
    Gradual,
    GroupDecision,
    Iterative,
    LayerDecision,
    Plan,
    Rewind,
    RigL,
    Static,
    Weights,
)
from trimtab.prepare import prepare
from trimtab.recover import DivergedError, Settings, recover

SCHEDULES = {
    "static": Static(),
    "iterative": Iterative(rounds=3, stop=0.5),
    "gradual": Gradual(start=0.1, stop=0.5, every=3),
    "dynamic": Dynamic(start=0.0, stop=0.5, every=3),
    "rigl": RigL(stop=0.6, every=4),
    "rewind": Rewind(rounds=2, stop=0.5, to=0.1),
}


def prepared(lab, schedule, *, bits=32, criterion="magnitude"):
    """Sixty percent of conv2 and of the head removed, and half of the channels of conv1, or all of that in int8."""
    network = lab.network
    stored = {"weight": onnxruntime.WEIGHT_INT8, "activation": onnxruntime.ACTIVATION_INT8} if bits == 8 else {}
    layers = tuple(
        LayerDecision(layer=name, sparsity=Weights(fraction=0.6), criterion=criterion, **stored)
        for name in ("conv2", "head")
    )
    group = network.groups[0]
    plan = Plan(
        fingerprint=network.fingerprint,
        target="onnxruntime",
        layers=layers,
        groups=(GroupDecision(group=group.name, kept=(0, 2, 3, 5)),),
    )
    batches = [x for x, _ in itertools.islice(lab.task.train, 2)]
    return prepare(network, None, plan, schedule=schedule, calibration=batches)


def fraction(weight):
    return (weight == 0).double().mean().item()


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_it_ends_sparse_and_cut_and_works(lab, schedule, bits):
    whole = evaluate(lab.network, lab.task.val, lab.task.metric).value
    given = prepared(lab, schedule, bits=bits)
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    result = recover(given, lab.task, teacher=lab.network, epochs=6, settings=Settings(learning_rate=1e-2))
    weights = dict(result.network.named_parameters())
    assert weights["conv1.weight"].shape[0] == 4
    assert weights["conv2.weight"].shape[1] == 4
    for name in ("conv2.weight", "head.weight"):
        assert fraction(weights[name]) == pytest.approx(0.6, abs=0.01)
    assert result.best_metric == evaluate(result.network, lab.task.val, lab.task.metric).value
    assert result.best_metric > whole - 0.2
    assert not result.network.training
    for name, tensor in given.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_what_is_not_yet_sparse_is_never_best(lab):
    result = recover(
        prepared(lab, Gradual(start=0.5, stop=0.9, every=1)), lab.task, epochs=4, settings=Settings(learning_rate=1e-5)
    )
    assert result.history[0].metric > result.history[4].metric + 0.05  # the dense network was better all the time
    assert ["not to be delivered" in entry.note for entry in result.history] == [True] * 4 + [False] * 2
    assert result.best_metric == result.history[-1].metric
    assert fraction(dict(result.network.named_parameters())["head.weight"]) == pytest.approx(0.6, abs=0.01)


def test_training_that_ends_before_its_schedule_is_refused_and_can_go_on(lab, tmp_path):
    path = tmp_path / "c.safetensors"
    schedule = Gradual(start=0.0, stop=0.9, every=1)
    with pytest.raises(ConfigError, match=r"training ended after epoch 0, before its schedule: .*train for longer"):
        recover(prepared(lab, schedule), lab.task, epochs=2, checkpoint=path, deadline=0.0)
    onward = recover(prepared(lab, schedule), lab.task, epochs=2, checkpoint=path)
    assert onward.history == recover(prepared(lab, schedule), lab.task, epochs=2).history


class Failing:
    """Cross-entropy that is not a number at the calls (from 1) in `when`."""

    def __init__(self, when):
        self.when, self.calls = set(when), 0

    def __call__(self, outputs, target):
        self.calls += 1
        loss = F.cross_entropy(outputs, target)
        return loss * float("nan") if self.calls in self.when else loss


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_set_back_takes_the_masks_back_too(lab, schedule):
    """The loss fails in the second epoch: what follows is as if it had begun with half the rate there."""
    settings = Settings(learning_rate=4e-3, optimizer="sgd", ema=0.9)
    task = lab.with_task(loss=Failing([19])).task
    result = recover(prepared(lab, schedule), task, epochs=3, settings=settings)
    again = recover(prepared(lab, schedule), lab.with_task(loss=Failing([15])).task, epochs=3, settings=settings)
    assert "back to epoch 1 at half the learning rate" in result.history[2].note
    assert result.history[3:] == again.history[3:]
    for name, tensor in result.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name


def test_divergence_before_there_is_anything_to_deliver(lab):
    task = lab.with_task(loss=Failing(range(5, 10**6))).task
    with pytest.raises(DivergedError, match="the 3rd time") as caught:
        recover(prepared(lab, Gradual(stop=0.9, every=1)), task, epochs=3)
    assert caught.value.recovered is None


def test_a_checkpoint_of_another_schedule_is_refused(lab, tmp_path):
    path = tmp_path / "c.safetensors"
    recover(prepared(lab, SCHEDULES["gradual"]), lab.task, epochs=1, checkpoint=path)
    with pytest.raises(RunError, match="checkpoint of another run, its plan is"):
        recover(prepared(lab, SCHEDULES["iterative"]), lab.task, epochs=1, checkpoint=path)
