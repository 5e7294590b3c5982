"""The training loop as a whole: it recovers, repeats, and leaves everything else as it was."""

import random
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.apply import apply
from trimtab.errors import ConfigError, TaskError
from trimtab.graph import capture
from trimtab.lower import onnxruntime
from trimtab.measure.metric import evaluate
from trimtab.plan import LayerDecision, Plan
from trimtab.recover import Settings, clock, epoch, recover, settle
from trimtab.tasks.task import Task


def weights_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same_bytes(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.contiguous().numpy().tobytes() == second[name].contiguous().numpy().tobytes(), name


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 5e-3), ("sgd", 5e-2)])
def test_it_recovers_what_was_lost(lab, optimizer, rate):
    before = weights_of(lab.damaged)
    lost = evaluate(lab.damaged, lab.task.val, lab.task.metric).value
    whole = evaluate(lab.network, lab.task.val, lab.task.metric).value
    assert lost < whole - 0.2
    result = recover(lab.damaged, lab.task, epochs=4, settings=Settings(optimizer=optimizer, learning_rate=rate))
    assert result.best_metric > whole - 0.05
    assert result.best_metric == evaluate(result.network, lab.task.val, lab.task.metric).value
    assert [entry.epoch for entry in result.history] == [0, 1, 2, 3, 4]
    assert result.history[0].metric == lost
    assert result.history[4].train_loss < result.history[1].train_loss
    assert not result.network.training
    assert_same_bytes(before, weights_of(lab.damaged))


def test_the_network_as_it_came_is_kept_when_training_only_harms(lab):
    result = recover(lab.network, lab.task, epochs=1, settings=Settings(learning_rate=1e3, clip_norm=1e6))
    assert result.history[1].metric < result.history[0].metric
    assert_same_bytes(weights_of(result.network), weights_of(lab.network))


def test_best_is_the_lowest_where_the_metric_says_so(lab):
    class Error:
        higher_is_better = False

        def __call__(self, outputs, labels):
            return (outputs.argmax(1) != labels).double().mean().item()

    result = recover(lab.damaged, lab.with_task(metric=Error()).task, epochs=2)
    assert result.best_metric == min(entry.metric for entry in result.history) < result.history[0].metric


def test_the_seed_decides_and_no_generator_is_touched(lab):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = (recover(lab.damaged, lab.task, epochs=1, seed=seed).network for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert_same_bytes(weights_of(first), weights_of(again))
    assert not torch.equal(weights_of(first)["conv1.weight"], weights_of(other)["conv1.weight"])


def test_a_loader_with_its_own_generator_repeats_too(lab):
    images, labels = next(iter(lab.task.val))
    rows = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(1))
    task = lab.with_task(train=loader).task
    first, again = (recover(lab.damaged, task, epochs=1).network for _ in range(2))
    assert_same_bytes(weights_of(first), weights_of(again))


def test_bfloat16_and_contiguous_layout_recover_as_well(lab):
    settings = Settings(precision="bfloat16", channels_last=False)
    result = recover(lab.damaged, lab.task, epochs=3, settings=settings)
    assert result.best_metric > result.history[0].metric + 0.2
    assert all(tensor.dtype != torch.bfloat16 for tensor in result.network.state_dict().values())


def test_distillation_alone_needs_no_labels_and_one_teacher_call_a_batch(lab):
    def no_labels(outputs, target):
        raise AssertionError("the loss was asked for")

    calls = []

    class Teacher:
        clone = to = eval = lambda self, *_, **__: self
        module = nn.Module()
        state_dict = lab.network.state_dict

        def __call__(self, x):
            assert not torch.is_grad_enabled()
            calls.append(len(x))
            return lab.network(x)

    task = lab.with_task(loss=no_labels).task
    result = recover(lab.damaged, task, teacher=Teacher(), epochs=3, settings=Settings(distillation=1.0))
    assert len(calls) == 3 * len(task.train)
    assert result.best_metric > result.history[0].metric + 0.2


def test_progress_counts_every_batch(lab):
    seen = []
    recover(lab.damaged, lab.task, epochs=2, on_step=lambda done, total, text: seen.append((done, total, text)))
    assert [done for done, _, _ in seen] == list(range(1, 21))
    assert {total for _, total, _ in seen} == {20}
    assert "epoch 2 of 2" in seen[-1][2]


def test_a_loader_without_a_length_is_counted(lab):
    class Endless:
        def __iter__(self):
            return iter(lab.task.train)

    seen = []
    task = lab.with_task(train=Endless()).task
    recover(lab.damaged, task, epochs=1, on_step=lambda done, total, text: seen.append((done, total)))
    assert seen[-1] == (10, 10)


@pytest.mark.parametrize(
    ("deadline", "finished", "trained"), [(0, 0, 0), (6, 0, 3), (13, 1, 10), (20, 1, 15), (999, 2, 20)]
)
def test_the_deadline_stops_at_the_end_of_a_batch(lab, monkeypatch, tmp_path, deadline, finished, trained):
    """The clock is looked at at first, three times an epoch and once a batch, and each time a second has passed."""
    ticking(monkeypatch)
    steps, path = [], tmp_path / "c.safetensors"
    result = recover(
        lab.damaged, lab.task, epochs=2, deadline=deadline, checkpoint=path, on_step=lambda done, *_: steps.append(done)
    )
    assert (result.epochs_done, len(steps)) == (finished, trained)
    unfinished = trained % 10 > 0
    assert len(result.history) == 1 + finished + unfinished
    assert (result.history[-1].note == "stopped by the deadline") == unfinished
    assert result.best_metric == max(entry.metric for entry in result.history)
    monkeypatch.undo()
    onward = recover(lab.damaged, lab.task, epochs=2, checkpoint=path)
    assert onward.epochs_done == 2
    if not finished or deadline == 999:  # an epoch in a hurry is another one
        assert onward.history == recover(lab.damaged, lab.task, epochs=2).history


def ticking(monkeypatch):
    """A clock that is a second further each time that it is looked at."""
    seconds = count()
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: next(seconds)))


def test_a_schedule_that_does_not_fit_into_the_time_ends_with_it(lab, monkeypatch):
    rates, pace = [], epoch.set_pace

    def seen(optimizer, rate, momentum, *, ranges_frozen):
        rates.append((rate, ranges_frozen))
        pace(optimizer, rate, momentum, ranges_frozen=ranges_frozen)

    monkeypatch.setattr(epoch, "set_pace", seen)
    ticking(monkeypatch)
    came = []
    result = recover(lab.damaged, lab.task, epochs=50, deadline=60, on_step=lambda done, *_: came.append(done))
    assert 3 <= result.epochs_done <= 5
    peak = max(rate for rate, _ in rates)
    assert rates[-1][0] < 0.01 * peak
    assert rates[-1][1]
    assert [entry.learning_rate for entry in result.history[2:]] == sorted(
        (entry.learning_rate for entry in result.history[2:]), reverse=True
    )
    assert came == sorted(came)
    assert came[-1] > 0.95 * 50 * 10


def test_a_transformer_recovers(lab):
    class Rows(nn.Module):
        """Reads an image as eight words, its rows."""

        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
            self.qkv, self.out, self.up, self.down = (
                nn.Linear(32, 96),
                nn.Linear(32, 32),
                nn.Linear(32, 64),
                nn.Linear(64, 32),
            )
            self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
            self.places = nn.Parameter(torch.randn(8, 32) * 0.1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x[:, 0]) + self.places
            q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
            x = x + self.out(F.scaled_dot_product_attention(q, k, v))
            x = x + self.down(F.gelu(self.up(self.norm2(x))))
            return self.head(x.mean(1))

    network = capture(Rows().eval(), next(iter(lab.task.val))[0][:5])
    result = recover(network, lab.task, epochs=30, settings=Settings(learning_rate=0.01))
    assert result.best_metric > 0.6 > 0.4 > result.history[0].metric, result.history[-1]


def test_bad_calls_are_named(lab):
    with pytest.raises(ConfigError, match="epochs must be at least 1, got 0"):
        recover(lab.network, lab.task, epochs=0)
    with pytest.raises(TaskError, match="no batches"):
        recover(lab.network, lab.with_task(train=[]).task, epochs=1)
    with pytest.raises(ConfigError, match="distillation"):
        Settings(distillation=1.5)
    with pytest.raises(ConfigError, match="lr: Extra inputs"):
        Settings(lr=0.1)


def test_the_task_may_have_named_inputs_and_several_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 1)

        def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(left), self.b(right)

    model, batches = Two().eval(), []
    for _ in range(6):
        left, right = torch.randn(16, 4), torch.randn(16, 5)
        with torch.no_grad():
            batches.append(({"left": left, "right": right}, model(left, right)))

    def loss(outputs, target):
        return sum(F.mse_loss(o, t) for o, t in zip(outputs, target, strict=True))

    def closeness(outputs, target):
        return -loss(outputs, target).item()

    task = Task(model=model, train=batches, val=batches, test=None, loss=loss, metric=closeness)
    network = capture(model, batches[0][0])
    damaged = network.clone()
    with torch.no_grad():
        for parameter in damaged.parameters():
            parameter.mul_(0.5)
    result = recover(damaged, task, teacher=network, epochs=20, settings=Settings(learning_rate=0.02))
    assert result.best_metric > 0.2 * result.history[0].metric


@pytest.mark.parametrize(("freeze_at", "moving"), [(1.0, 20), (0.0, 0), (0.7, 14)])
def test_batch_norm_is_frozen_from_the_given_step_on(lab, monkeypatch, freeze_at, moving):
    seen = []
    step = epoch.Trainer.step

    def watched(self, *args):
        before = dict(self.network.named_buffers())["bn2.running_mean"].clone()
        value = step(self, *args)
        seen.append(not torch.equal(before, dict(self.network.named_buffers())["bn2.running_mean"]))
        return value

    monkeypatch.setattr(epoch.Trainer, "step", watched)
    recover(lab.damaged, lab.task, epochs=2, settings=Settings(freeze_norm_at=freeze_at))
    assert seen == [True] * moving + [False] * (20 - moving)


def test_a_network_without_batch_norm_keeps_its_dropout_to_the_end(lab, monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).eval()
    modes = []
    step = epoch.Trainer.step
    monkeypatch.setattr(
        epoch.Trainer,
        "step",
        lambda self, *args: (modes.append(self.network.training), step(self, *args))[1],
    )
    network = capture(model, next(iter(lab.task.val))[0][:5])
    recover(network, lab.task, epochs=1, settings=Settings(freeze_norm_at=0.0))
    assert modes == [True] * 10


def test_quantization_scales_are_trained_with_the_weights(lab):
    schemes = {"weight": onnxruntime.WEIGHT_INT8, "activation": onnxruntime.ACTIVATION_INT8}
    layers = tuple(LayerDecision(layer=layer.name, **schemes) for layer in lab.network.layers)
    plan = Plan(fingerprint=lab.network.fingerprint, target="onnxruntime", layers=layers)
    quantized = settle(apply(lab.network, plan), [x for x, _ in lab.task.train], structure_changed=False)
    scales = {name: p.detach().clone() for name, p in quantized.named_parameters() if name.endswith("scale")}
    with torch.no_grad():
        dict(quantized.named_parameters())["conv2.weight"][::2] *= 0.3
    result = recover(quantized, lab.task, teacher=lab.network, epochs=3, settings=Settings(learning_rate=5e-3))
    assert result.best_metric > result.history[0].metric
    after = dict(result.network.named_parameters())
    assert len(scales) >= 6
    for name, before in scales.items():
        assert 0 < (after[name] / before - 1).abs().max() < 0.5, name
