"""What can be set about the loop, one by one: against loops written by hand, and against each other."""

import copy
import sys
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab.apply import apply
from trimtab.errors import ConfigError, MissingPackageError
from trimtab.graph import capture
from trimtab.plan import PER_TENSOR, LayerDecision, Penalty, Plan, Scheme
from trimtab.prune import PENALTIES
from trimtab.recover import Settings, epoch, recover
from trimtab.recover.average import Average
from trimtab.recover.optimizer import momentum_at, rate_at
from trimtab.tasks.rows import concatenate


@pytest.fixture
def plain(lab):
    """A network whose rows do not know of each other, and its task on batches of 64, 64, …, 50."""
    torch.manual_seed(1)
    network = capture(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).eval(), images(lab))
    rows = [concatenate(part) for part in zip(*lab.task.val, strict=True)]
    batches = [(x, y) for x, y in zip(*(part.split(50) for part in rows), strict=True)]
    batches[-1] = tuple(part[:31] for part in batches[-1])
    return network, lab.with_task(train=batches).task


def images(lab):
    return next(iter(lab.task.val))[0][:5]


def states(monkeypatch):
    """The network after every update."""
    seen = []
    update = epoch.Trainer._update
    monkeypatch.setattr(
        epoch.Trainer,
        "_update",
        lambda self, *args: (
            update(self, *args),
            seen.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()}),
        ),
    )
    return seen


# ── gradient accumulation ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("several", [2, 3, 5, 100])
def test_batches_of_one_update_are_as_one_batch(plain, monkeypatch, optimizer, several):
    """Eight batches, the last one smaller: an epoch's last update takes what is left."""
    network, task = plain
    batches = list(task.train)
    joined = [concatenate(batches[i : i + several]) for i in range(0, len(batches), several)]
    how = {"optimizer": optimizer, "learning_rate": 1e-2, "weight_decay": 0.0}
    ours = states(monkeypatch)
    recover(network, task, epochs=2, settings=Settings(accumulate=several, **how))
    accumulated = ours.copy()
    ours.clear()
    recover(network, copy_with(task, joined), epochs=2, settings=Settings(**how))
    assert len(accumulated) == len(ours) == 2 * len(joined)
    for first, second in zip(accumulated, ours, strict=True):
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=2e-5)


def copy_with(task, train):
    changed = copy.copy(task)
    object.__setattr__(changed, "train", [tuple(batch) for batch in train])
    return changed


# ── moving average ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_average_is_that_of_all_updates(lab, monkeypatch):
    seen = states(monkeypatch)
    averages = []
    update = Average.update
    monkeypatch.setattr(
        Average,
        "update",
        lambda self, masks: (
            update(self, masks),
            averages.append({n: t.clone() for n, t in self.network.state_dict().items()}),
        ),
    )
    result = recover(lab.damaged, lab.task, epochs=1, settings=Settings(ema=0.7, learning_rate=5e-3))
    expected = None
    for count, (state, average) in enumerate(zip(seen, averages, strict=True)):
        decay = min(0.7, count / (count + 1))
        floats = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
        expected = {
            name: value if expected is None else decay * expected[name] + (1 - decay) * value
            for name, value in floats.items()
        }
        for name, value in expected.items():
            torch.testing.assert_close(average[name].double(), value, rtol=1e-4, atol=1e-6)
        assert all(torch.equal(average[name], state[name]) for name in state.keys() - expected.keys())
    assert len(averages) == 10
    for name, tensor in result.network.state_dict().items():  # the average is what is returned
        assert torch.equal(tensor, averages[-1][name]), name
    assert not torch.equal(averages[-1]["conv2.weight"], seen[-1]["conv2.weight"])


def test_a_mean_teacher_teaches_without_labels(lab):
    """The student follows its own average, here on inputs without targets; with dropout that is not nothing."""
    task = lab.with_task(train=[(x, None) for x, _ in lab.task.train]).task
    how = Settings(ema=0.99, mean_teacher=True, distillation=1.0, learning_rate=1e-3)
    result = recover(lab.network, task, epochs=2, settings=how)
    assert result.history[2].train_loss > 0
    assert result.best_metric >= result.history[0].metric
    with pytest.raises(ConfigError, match="mean_teacher and another teacher"):
        recover(lab.network, lab.task, teacher=lab.network, epochs=1, settings=how)
    with pytest.raises(ConfigError, match=r"mean_teacher needs a moving average; set ema"):
        Settings(mean_teacher=True)


# ── patience ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Scripted:
    """A metric that gives these values, one an evaluation."""

    def __init__(self, values, higher=True):
        self.values, self.calls, self.higher_is_better = values, 0, higher

    def __call__(self, outputs, target):
        self.calls += 1
        return self.values[self.calls - 1]


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize(
    ("values", "epochs", "best"),
    [
        ((0.5, 0.6, 0.4, 0.5, 0.9), 3, 0.6),
        ((0.5, 0.6, 0.6, 0.6, 0.9), 3, 0.6),  # as good is not better
        ((0.5, 0.4, 0.6, 0.5, 0.7), 4, 0.7),
        ((0.5, 0.4, 0.4, 0.7, 0.8), 2, 0.5),
    ],
)
def test_two_epochs_without_a_better_metric_are_the_end(lab, values, epochs, best, higher):
    sign = 1 if higher else -1
    metric = Scripted([sign * value for value in values], higher)
    result = recover(lab.damaged, lab.with_task(metric=metric).task, epochs=4, settings=Settings(patience=2))
    assert (result.epochs_done, result.best_metric) == (epochs, sign * best)


def test_patience_that_has_run_out_is_remembered(lab, tmp_path):
    path, how = tmp_path / "c.safetensors", Settings(patience=1)
    metric = Scripted([0.5, 0.4])
    first = recover(lab.damaged, lab.with_task(metric=metric).task, epochs=4, settings=how, checkpoint=path)
    again = recover(lab.damaged, lab.with_task(metric=Scripted([])).task, epochs=4, settings=how, checkpoint=path)
    assert (again.history, again.epochs_done) == (first.history, 1)


# ── learning rate ─────────────────────────────────────────────────────────────────────────────────────────────────────


@hypothesis(max_examples=60, deadline=None)
@given(steps=st.integers(2, 400), warmup=st.floats(0, 0.9), peak=st.floats(1e-6, 10), momentum=st.floats(0, 0.99))
def test_one_cycle_rises_and_falls_and_momentum_mirrors_it(steps, warmup, peak, momentum):
    settings = Settings(rate="one_cycle", warmup=warmup, learning_rate=peak, momentum=momentum)
    rates = [rate_at(step, steps, settings) for step in range(steps)]
    top = max(range(steps), key=rates.__getitem__)
    assert max(rates) == pytest.approx(peak)
    assert top == max(1, round(warmup * steps)) - 1
    assert min(rates[: top + 1]) >= peak / 25
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b > 0 for a, b in pairwise(rates[top:]))
    assert rate_at(steps, steps, settings) == pytest.approx(0, abs=1e-12 * peak)
    momenta = [momentum_at(step, steps, settings) for step in range(steps)]
    assert min(momenta) == momenta[top] == pytest.approx(max(0, momentum - 0.1))
    assert max(momenta) <= momentum


@pytest.mark.parametrize(("optimizer", "key"), [("sgd", "momentum"), ("adamw", "betas")])
def test_one_cycle_reaches_the_optimizer(lab, monkeypatch, optimizer, key):
    seen = []
    update = epoch.Trainer._update

    def watched(self, *args):
        update(self, *args)
        group = self.optimizer.param_groups[0]
        seen.append((group["lr"], group[key] if key == "momentum" else group[key][0]))

    monkeypatch.setattr(epoch.Trainer, "_update", watched)
    settings = Settings(optimizer=optimizer, rate="one_cycle", learning_rate=1e-2)
    result = recover(lab.damaged, lab.task, epochs=2, settings=settings)
    assert seen == [(rate_at(step, 20, settings), momentum_at(step, 20, settings)) for step in range(20)]
    assert result.best_metric > result.history[0].metric


# ── batch norm at the end ─────────────────────────────────────────────────────────────────────────────────────────────


def test_batch_norm_is_measured_anew_and_kept_where_that_is_not_worse(lab):
    broken = lab.network.clone()
    with torch.no_grad():
        dict(broken.named_buffers())["bn2.running_mean"][::2] += 3
    how = Settings(learning_rate=1e-9, freeze_norm_at=0.0, reestimate=10)
    result = recover(broken, lab.task, epochs=1, settings=how)
    assert result.history[-1].note == "batch norm re-estimated"
    assert result.best_metric == result.history[-1].metric > result.history[1].metric + 0.05


def test_batch_norm_that_would_be_worse_is_left(lab):
    shifted = lab.with_task(train=[(x * 40 - 3, y) for x, y in lab.task.train]).task
    how = Settings(learning_rate=1e-12, freeze_norm_at=0.0, reestimate=2)
    result = recover(lab.network, shifted, epochs=1, settings=how)
    assert "batch norm not re-estimated: the metric would be" in result.history[-1].note
    assert result.best_metric == result.history[0].metric
    for name, buffer in lab.network.named_buffers():
        assert torch.equal(buffer, dict(result.network.named_buffers())[name]), name


# ── teachers and targets ──────────────────────────────────────────────────────────────────────────────────────────────


def test_without_targets_distillation_is_the_same_to_the_byte(lab):
    """What is classes is known from val."""
    how = {"teacher": lab.network, "epochs": 2, "settings": Settings(distillation=1.0)}
    labelled = recover(lab.damaged, lab.task, **how)

    class Unlabelled:
        def __iter__(self):
            return ((x, None) for x, _ in lab.task.train)

    without = recover(lab.damaged, lab.with_task(train=Unlabelled()).task, **how)
    assert without.history == labelled.history
    for name, tensor in labelled.network.state_dict().items():
        assert torch.equal(tensor, without.network.state_dict()[name]), name


@pytest.mark.parametrize(("teacher", "distillation"), [(True, 0.9), (False, 1.0)])
def test_a_target_that_is_needed_and_missing_is_named(lab, teacher, distillation):
    task = lab.with_task(train=[(x, None) for x, _ in lab.task.train]).task
    with pytest.raises(ConfigError, match=r"no target \(None\).*set distillation=1 and give a teacher, or give targ"):
        recover(
            lab.damaged,
            task,
            teacher=lab.network if teacher else None,
            epochs=1,
            settings=Settings(distillation=distillation),
        )


class Large(nn.Module):
    """Another architecture with the same outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 32, 3), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).amax((2, 3)))


def test_the_teacher_may_be_any_module_or_network(lab):
    torch.manual_seed(2)
    module = Large()
    how = {"epochs": 2, "settings": Settings(distillation=1.0)}
    by_module = recover(lab.damaged, lab.task, teacher=module, **how)
    by_network = recover(lab.damaged, lab.task, teacher=capture(copy.deepcopy(module).eval(), images(lab)), **how)
    assert module.training
    assert module.conv.weight.is_contiguous()
    for name, tensor in by_module.network.state_dict().items():
        torch.testing.assert_close(tensor, by_network.network.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_a_teacher_with_other_outputs_is_refused(lab):
    with pytest.raises(ConfigError, match="must be alike"):
        recover(lab.damaged, lab.task, teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), epochs=1)


# ── penalties ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", sorted({*PENALTIES} - {"l0", "entropy"}))
def test_a_penalty_makes_small_what_it_acts_on(lab, kind):
    strength = {"l1": 3e-3, "l2": 3e-2, "group_lasso": 3e-3, "slimming": 0.1}[kind]
    penalties = None, Penalty(kind=kind, strength=strength, growth=1.0)
    plain, result = (after_three_epochs(lab, Settings(learning_rate=1e-2, penalty=penalty)) for penalty in penalties)
    values = [PENALTIES.load(kind)(network)().item() for network in (plain, result)]
    assert values[1] < 0.9 * values[0]
    assert list(result.state_dict()) == list(lab.network.state_dict())


def test_entropy_makes_the_codes_of_a_quantized_network_fewer(lab):
    scheme = Scheme(grid="symmetric", bits=4, granularity=PER_TENSOR)
    layers = tuple(LayerDecision(layer=layer.name, weight=scheme) for layer in lab.network.layers)
    coarse = apply(lab.network, Plan(fingerprint=lab.network.fingerprint, target="onnxruntime", layers=layers))
    term = PENALTIES.load("entropy")
    bits = []
    for penalty in (None, Penalty(kind="entropy", strength=3e-3, growth=1.0)):
        settings = Settings(learning_rate=1e-2, penalty=penalty)
        task = lab.with_task(metric=Scripted([0, 1, 2, 3])).task
        bits.append(term(recover(coarse, task, epochs=3, settings=settings).network)().item())
    assert bits[1] < 0.8 * bits[0]


def test_gates_that_close_leave_zeros_behind_and_are_gone(lab):
    """At a rate that lets them move from open to closed within thirty steps."""
    penalty = Penalty(kind="l0", strength=1.0, growth=1.0)
    result = after_three_epochs(lab, Settings(learning_rate=0.5, clip_norm=1e3, penalty=penalty))
    assert result.fingerprint == lab.network.fingerprint
    assert result.state_dict().keys() == lab.network.state_dict().keys()
    assert (dict(result.named_parameters())["head.weight"] == 0).double().mean() > 0.5


def after_three_epochs(lab, settings):
    task = lab.with_task(metric=Scripted([0, 1, 2, 3])).task  # the last epoch is the best
    return recover(lab.network, task, epochs=3, settings=settings).network


def test_what_is_added_to_the_loss_is_strength_times_penalty(lab, monkeypatch):
    losses = []
    step = epoch.Trainer.step
    monkeypatch.setattr(epoch.Trainer, "step", lambda self, *args: (losses.append(step(self, *args)), losses[-1])[1])
    recover(lab.network, lab.task, epochs=1)
    plain = losses[0]
    losses.clear()
    recover(lab.network, lab.task, epochs=1, settings=Settings(penalty=Penalty(kind="l1", strength=0.01)))
    expected = 0.01 * sum(p.double().abs().sum() for p in lab.network.parameters() if p.dim() > 1)
    assert losses[0] - plain == pytest.approx(expected.item(), rel=1e-4)


def test_the_strength_grows_until_the_penalty_works(lab, tmp_path):
    """Nothing is negligible at first; later the growth is seen in the events."""
    how = {"epochs": 4, "settings": Settings(penalty=Penalty(kind="l1", strength=1e-6, growth=3.0, until=0.5))}
    recover(lab.network, lab.task, events=tmp_path / "grows", **how)
    assert [value for _, value in curves(tmp_path / "grows")["penalty/strength"]] == [
        pytest.approx(1e-6 * 3**power, rel=1e-5) for power in (1, 2, 3, 4)
    ]
    how["settings"] = Settings(penalty=Penalty(kind="l1", strength=1e-6, growth=3.0, until=0.001))
    recover(lab.damaged, lab.task, events=tmp_path / "stays", **how)  # half of it is zero when it begins
    assert curves(tmp_path / "stays")["penalty/strength"][0][1] == pytest.approx(1e-6)


def test_what_is_returned_is_an_epoch_in_which_the_penalty_works(lab):
    """The metric is best before anything is small; an epoch in which enough is small counts all the same."""
    settings = Settings(learning_rate=0.03, penalty=Penalty(kind="l1", strength=1.0, growth=1.0, until=0.08))
    task = lab.with_task(metric=Scripted([9, 8, 7, 6, 5])).task
    result = recover(lab.network, task, epochs=4, settings=settings)
    works = PENALTIES.load("l1")(result.network).negligible()
    assert works >= 0.08
    assert result.best_metric < 9
    assert PENALTIES.load("l1")(lab.network).negligible() < 0.08


def test_while_no_penalty_works_the_latest_epoch_is_returned(lab):
    settings = Settings(penalty=Penalty(kind="l1", strength=1e-9, growth=1.0, until=0.999))
    task = lab.with_task(metric=Scripted([9, 8, 7, 6])).task
    assert recover(lab.network, task, epochs=3, settings=settings).best_metric == 6


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def curves(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder))
    reader.Reload()
    return {name: [(e.step, e.value) for e in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


def test_events_hold_the_curves_once_also_after_a_kill(lab, tmp_path, monkeypatch):
    def die(done, total, text):
        if done == 15:
            raise KeyboardInterrupt

    given = {"epochs": 3, "events": tmp_path / "events", "checkpoint": tmp_path / "c.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        recover(lab.damaged, lab.task, on_step=die, **given)
    history = recover(lab.damaged, lab.task, **given).history
    found = curves(tmp_path / "events")
    assert found.keys() == {"loss/train", "metric/val", "learning_rate", "sparsity"}
    for name, key in (("loss/train", "train_loss"), ("metric/val", "metric"), ("learning_rate", "learning_rate")):
        assert found[name] == [(e.epoch, pytest.approx(getattr(e, key))) for e in history[1:]]
    assert [step for step, _ in found["sparsity"]] == [1, 2, 3]


def test_events_without_tensorboard_name_the_package(lab, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'trimtab\[tensorboard\]'"):
        recover(lab.damaged, lab.task, epochs=1, events=tmp_path)
