"""Behaviour: every kind of damage is caught by its check and by no other, and references written differently agree."""

import sys

import numpy as np
import pytest
import torch
from behaviour_nets import CLASSES, Brittle, ByHeart, Halves, OneClass, Overconfident, compared, made
from torch import Tensor, nn
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassCalibrationError, MulticlassRecall

from trimtab.errors import ConfigError
from trimtab.measure import evaluate
from trimtab.plan import Budget, Requirement
from trimtab.report.behaviour import CHECKS, behaviour, changed
from trimtab.report.behaviour.agreement import agreement
from trimtab.report.behaviour.calibration import calibration, calibration_error
from trimtab.report.behaviour.classes import classes
from trimtab.report.behaviour.compared import LeftOutError, first
from trimtab.report.behaviour.labelled import labelled
from trimtab.report.behaviour.overfitting import overfitting
from trimtab.tasks import Task


def failing(found) -> list[str]:
    assert not found.left_out
    return [check.name for check in found.checks if not check.holds]


def damaged(kind: str, means: Tensor, data) -> nn.Module:
    match kind:
        case "classes":
            return OneClass(means)
        case "calibration":
            return Overconfident(means)
        case "explanation":
            return Halves(means, half=1)
        case "robustness":
            return Brittle(means)
        case "overfitting":
            return ByHeart(means, *data["train"])
    raise AssertionError(kind)


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("kind", ["classes", "calibration", "explanation", "robustness", "overfitting"])
def test_damage_is_caught_by_its_check_and_only_by_it(kind, seed):
    task, means, data = made(seed)
    found = behaviour(compared(task, damaged(kind, means, data), seed))
    assert failing(found) == [kind]


def test_a_network_that_moved_little_passes_every_check():
    task, means, _ = made()
    near = Halves(means)
    with torch.no_grad():
        near.linear.weight += 0.01 * torch.randn_like(near.linear.weight)
    found = behaviour(compared(task, near))
    assert failing(found) == []
    assert [check.name for check in found.checks] == list(CHECKS)


def test_another_network_that_is_as_good_does_not_agree():
    """Both see half of the features, each its own half, and are right as often."""
    task, means, data = made()
    halves = []
    for kept in (slice(0, 24), slice(24, 48)):
        part = torch.zeros_like(means)
        part[:, kept] = means[:, kept]
        halves.append(Halves(part).eval())
    task = Task(model=halves[0], train=task.train, val=task.val, test=task.test, loss=task.loss, metric=task.metric)
    check = agreement(compared(task, halves[1]), 0.1)
    outputs = [half(data["test"][0]).argmax(1) for half in halves]
    assert not check.holds
    assert check.measured == pytest.approx(float((outputs[0] != outputs[1]).double().mean()))


def test_recalls_are_those_of_torchmetrics_and_the_interval_holds_them():
    task, means, data = made()
    check = classes(compared(task, OneClass(means)), 0.02)
    images, labels = data["test"]
    for column, network in (("before", task.model), ("after", OneClass(means).eval())):
        expected = MulticlassRecall(CLASSES, average=None)(network(images), labels)
        assert [getattr(aspect, column) for aspect in check.aspects] == pytest.approx(expected.tolist(), abs=1e-6)
    for aspect in check.aspects:
        assert aspect.interval[0] <= aspect.after - aspect.before <= aspect.interval[1]
    lost = [aspect.interval[1] < 0 for aspect in check.aspects]
    assert lost == [False] * (CLASSES - 1) + [True]  # only the last class surely got worse
    assert f"class {CLASSES - 1} paid" in check.verdict


def test_classes_are_not_blamed_for_what_chance_does():
    """Random errors, equally many in every class: in 40 draws hardly ever a class that surely paid."""
    blamed = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(10, (500,), generator=generator)
        right = [torch.rand(500, generator=generator) < share for share in (0.9, 0.87)]
        outputs = [torch.nn.functional.one_hot(torch.where(ok, labels, (labels + 1) % 10), 10).float() for ok in right]
        blamed += not classes(_from_outputs(outputs, labels), 0.0).holds
    assert blamed <= 6


def test_the_calibration_error_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(5000, 6, generator=generator) * 2, torch.randint(6, (5000,), generator=generator)
    found = labelled(outputs, labels)
    expected = MulticlassCalibrationError(6, n_bins=15)(outputs.softmax(1), labels)
    assert calibration_error(found.confidence, found.right) == pytest.approx(float(expected), abs=1e-4)


def test_the_divergence_at_the_best_temperature_does_not_see_confidence():
    task, means, _ = made()
    check = agreement(compared(task, Overconfident(means)), 0.1)
    plain, at_best = (aspect.after for aspect in check.aspects[-2:])
    assert plain > 0.05
    assert at_best < 0.003


def _from_outputs(outputs, targets) -> "Outputs":
    evaluated = [evaluate(lambda index, o=o: o[index], [(torch.arange(len(targets)), targets)], _zero) for o in outputs]
    return Outputs(evaluated)


def _zero(outputs, targets) -> float:
    return 0.0


class Outputs:
    """What the checks of outputs ask a `Compared` for."""

    def __init__(self, evaluated) -> None:
        self.evaluated, self.seed = tuple(evaluated), 0

    @property
    def labelled(self):
        found = tuple(labelled(each.outputs, each.targets) for each in self.evaluated)
        if None in found:
            raise LeftOutError("the task has no classes")
        return found


@pytest.mark.parametrize("layout", ["rows", "maps", "sequences", "log", "probabilities"])
def test_classes_are_found_in_every_layout(layout):
    scores, labels = torch.randn(30, 5), torch.randint(5, (30,))
    outputs, targets = {
        "rows": (scores, labels),
        "maps": (scores.view(2, 3, 5, 5).movedim(-1, 1), labels.view(2, 3, 5)),
        "sequences": (scores.view(5, 6, 5), labels.view(5, 6)),
        "log": (scores.log_softmax(1), labels),
        "probabilities": (scores.softmax(1), labels),
    }[layout]
    found = labelled(outputs, targets)
    assert torch.equal(found.predicted, scores.argmax(1))
    assert torch.equal(found.labels, labels)
    assert torch.allclose(found.log_probabilities.exp(), scores.double().softmax(1), atol=1e-6)
    assert torch.equal(found.row, torch.arange(len(targets)).repeat_interleave(30 // len(targets)))


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
@pytest.mark.parametrize("probability", [False, True])
def test_one_output_for_two_classes(shape, probability):
    scores, labels = torch.randn(40), torch.randint(2, (40,))
    outputs = (scores.sigmoid() if probability else scores).view(shape)
    found = labelled(outputs, labels.float())
    assert torch.equal(found.predicted, (scores > 0).long())
    assert torch.allclose(found.log_probabilities[:, 1].exp(), scores.double().sigmoid(), atol=1e-6)


def test_labels_below_zero_do_not_count_and_others_must_be_classes():
    outputs, labels = torch.randn(20, 3), torch.randint(3, (20,))
    labels[::4] = -100
    assert len(labelled(outputs, labels).labels) == 15
    assert labelled(outputs, labels + 3) is None
    assert labelled(outputs, torch.rand(20)) is None
    assert labelled((outputs,), labels) is None


class Regression(nn.Module):
    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, 0.8, 0.6, 0.4, 0.2, 0.1]]) + off)
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).squeeze(1)


def regression() -> Task:
    model = Regression().eval()
    x = torch.randn(300, 6)
    rows = [(part, model(part).detach() + 0.1 * torch.randn(100)) for part in x.split(100)]
    return Task(model=model, train=rows, val=rows, test=rows, loss=nn.functional.mse_loss, metric=MeanSquaredError())


def test_a_regression_leaves_out_what_needs_classes_and_says_so():
    task = regression()
    found = behaviour(compared(task, Regression(off=0.01)))
    assert set(found.left_out) == {"classes", "calibration"}
    assert all("no classes" in reason for reason in found.left_out.values())
    assert {check.name for check in found.checks if check.holds} == {
        "agreement",
        "robustness",
        "overfitting",
        "explanation",
    }
    assert changed(compared(task, Regression(off=0.01))) == ()


def test_how_far_outputs_moved_is_in_shares_of_what_they_vary_by():
    task = regression()
    check = agreement(compared(task, Regression(off=0.5)), 0.1)
    x = torch.cat([inputs for inputs, _ in task.test])
    before, after = (model(x).detach().double() for model in (task.model, Regression(off=0.5)))
    assert check.measured == pytest.approx(
        float((before - after).square().mean().sqrt() / before.std(correction=0)), rel=1e-5
    )
    assert not check.holds


def test_where_lower_is_better_an_overfitted_gap_is_positive():
    task = regression()
    task = Task(
        model=task.model,
        train=[(x, task.model(x).detach()) for x, _ in task.train],
        val=task.val,
        test=task.test,
        loss=task.loss,
        metric=task.metric,
    )
    check = overfitting(compared(task, Regression(off=0.1)), 0.05)
    assert check.aspects[-1].before > 0


def test_three_rows_are_enough_to_answer():
    task, means, _ = made()
    rows = first(task.test, 3)
    few = Task(model=task.model, train=rows, val=rows, test=rows, loss=task.loss, metric=task.metric)
    found = behaviour(compared(few, OneClass(means)))
    assert set(found.left_out) == {"classes", "calibration"}
    assert "3 labels are too few" in found.left_out["calibration"]


def test_without_captum_the_explanation_is_left_out_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    task, means, _ = made()
    found = behaviour(compared(task, Halves(means)))
    assert "pip install 'trimtab[explain]'" in found.left_out["explanation"]


def test_rows_that_changed_are_shown_with_what_was_said_of_them():
    task, means, data = made()
    both = compared(task, OneClass(means))
    shown = changed(both)
    images, labels = data["test"]
    before, after = (network(images).softmax(1) for network in (task.model, OneClass(means).eval()))
    flipped = (before.argmax(1) != after.argmax(1)).nonzero().flatten().tolist()
    assert 0 < len(shown) <= 24
    assert {row.row for row in shown} <= set(flipped)
    for row in shown:
        assert row.label == str(int(labels[row.row]))
        assert row.before.startswith(f"{int(before[row.row].argmax())} (")
        assert row.right == (int(after[row.row].argmax()) == int(labels[row.row]))
        assert row.picture.startswith("data:image/png;base64,")


def test_pictures_are_the_images(tmp_path):
    import base64
    import io

    from PIL import Image

    from trimtab.report.behaviour.pictures import picture

    for channels in (1, 3):
        x = torch.rand(channels, 9, 13)
        data = base64.b64decode(picture(x).partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(data))).reshape(9, 13, channels)
        expected = ((x - x.min()) / (x.max() - x.min()) * 255).round().permute(1, 2, 0)
        assert np.abs(pixels - expected.numpy()).max() <= 1
    assert picture(torch.rand(7)) == ""
    assert picture(torch.rand(2, 9, 9)) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("classes", Requirement(check="classes")),
        ("calibration=0.02", Requirement(check="calibration", at_most=0.02)),
        (" agreement = 5% ", Requirement(check="agreement", at_most=0.05)),
        ("robustness=0.0123456", Requirement(check="robustness", at_most=0.0123456)),
    ],
)
def test_a_requirement_is_read_and_written_again(text, expected):
    assert Budget(drop=0.01, require=[text]).require == (expected,)
    assert Budget(drop=0.01, require=[str(expected)]).require == (expected,)


@pytest.mark.parametrize(
    ("require", "says"),
    [
        (["fairness"], "cannot read 'fairness'.*known: classes"),
        (["calibration=-1"], "cannot read"),
        (["classes=much"], "cannot read"),
        (["classes", "classes=0.1"], "classes is required twice"),
    ],
)
def test_a_requirement_that_cannot_be_read_is_refused(require, says):
    with pytest.raises(ConfigError, match=says):
        Budget(drop=0.01, require=require)


def test_a_threshold_of_ones_own_decides():
    task, means, _ = made()
    of = compared(task, Overconfident(means))
    assert calibration(of, 0.03).holds is False
    found = behaviour(of, [Requirement(check="calibration", at_most=0.5)])
    assert found.check("calibration").holds
    assert found.check("calibration").at_most == 0.5
