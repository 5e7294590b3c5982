"""Loss, data and weights that are not finite."""

import pytest
import torch
import torch.nn.functional as F

from trimtab.errors import NumericsError
from trimtab.recover import DivergedError, recover


class Failing:
    """Cross-entropy that turns into `value` at the calls (from 1) in `when`."""

    def __init__(self, when, value=float("nan")):
        self.when, self.value, self.calls = set(when), value, 0

    def __call__(self, outputs, target):
        self.calls += 1
        loss = F.cross_entropy(outputs, target)
        return loss * self.value if self.calls in self.when else loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_batch_goes_back_an_epoch_at_half_the_rate(lab, value):
    healthy = recover(lab.damaged, lab.task, epochs=3)
    result = recover(lab.damaged, lab.with_task(loss=Failing([15], value)).task, epochs=3)
    assert result.epochs_done == 3
    assert [entry.epoch for entry in result.history] == [0, 1, 2, 2, 3]
    assert result.history[:2] == healthy.history[:2]
    setback, after = result.history[2:4]
    assert "epoch 2, batch 5: the loss is" in setback.note
    assert "back to epoch 1 at half the learning rate" in setback.note
    assert after.learning_rate == setback.learning_rate == healthy.history[2].learning_rate / 2
    assert all(bool(tensor.isfinite().all()) for tensor in result.network.state_dict().values())


def test_an_infinite_gradient_of_a_finite_loss_is_caught(lab):
    class Edge(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    calls = []

    def loss(outputs, target):
        calls.append(1)
        value = F.cross_entropy(outputs, target)
        return Edge.apply(value) if len(calls) == 2 else value

    result = recover(lab.damaged, lab.with_task(loss=loss).task, epochs=1)
    assert "the gradient is not finite" in result.history[1].note
    assert result.epochs_done == 1


def test_three_times_is_the_end_and_the_best_is_kept(lab, tmp_path):
    path = tmp_path / "c.safetensors"
    first = recover(lab.damaged, lab.task, epochs=9)
    task = lab.with_task(loss=Failing(range(13, 10**6))).task
    with pytest.raises(DivergedError, match=r"epoch 2, batch \d+: the loss is nan, the 3rd time") as caught:
        recover(lab.damaged, task, epochs=9, checkpoint=path)
    recovered = caught.value.recovered
    assert recovered.best_metric == first.history[1].metric
    assert [bool(entry.note) for entry in recovered.history] == [False, False, True, True, True]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    again = recover(
        lab.damaged, lab.task, epochs=9, checkpoint=path
    )  # with a sound loss it goes on from the last epoch
    assert again.history == first.history


def test_data_that_are_not_finite_are_named_and_not_tried_again(lab):
    batches = list(lab.task.train)
    batches[3][0][2, 0, 1, 1] = float("nan")
    with pytest.raises(NumericsError, match="epoch 1, batch 4: the inputs hold NaN or infinity") as caught:
        recover(lab.damaged, lab.with_task(train=batches).task, epochs=2)
    assert not isinstance(caught.value, DivergedError)


def test_weights_that_are_not_finite_are_named(lab):
    broken = lab.network.clone()
    with torch.no_grad():
        dict(broken.named_parameters())["conv2.weight"][0, 0] = float("inf")
    with pytest.raises(NumericsError, match=r"conv2\.weight holds NaN or infinity before training"):
        recover(broken, lab.task, epochs=1)
