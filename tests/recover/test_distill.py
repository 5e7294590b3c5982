"""The distillation loss against plain loops in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimtab.errors import ConfigError
from trimtab.recover import distillation_loss


def softmax(row, temperature):
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


def reference_kl(student, teacher, temperature):
    """Rows of logits."""
    rows = []
    for s, t in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        rows.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return temperature**2 * sum(rows) / len(rows)


def reference_mse(student, teacher):
    s, t = student.double().flatten().tolist(), teacher.double().flatten().tolist()
    mean = sum(t) / len(t)
    variance = sum((x - mean) ** 2 for x in t) / len(t)
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(t) / variance


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(2, 9), st.sampled_from([(), (3,), (2, 5)]), st.sampled_from([1.0, 2.5, 7.0]))
def test_classes_are_compared_by_divergence(rows, classes, places, temperature):
    shape = (rows, classes, *places)
    student, teacher = torch.randn(shape) * 3, torch.randn(shape) * 3
    target = torch.randint(classes, (rows, *places))
    loss = distillation_loss(student, teacher, target, temperature=temperature)
    flat = [x.movedim(1, -1).reshape(-1, classes) for x in (student, teacher)]
    assert loss.item() == pytest.approx(reference_kl(*flat, temperature), rel=1e-4, abs=1e-5)


def test_classes_may_be_the_last_dimension():
    student, teacher = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    loss = distillation_loss(student, teacher, torch.randint(7, (2, 5)), temperature=2.0)
    assert loss.item() == pytest.approx(reference_kl(student.view(10, 7), teacher.view(10, 7), 2.0), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(8,), (6, 1), (3, 4), (2, 3, 4)]))
def test_other_outputs_are_compared_by_normalized_squares(shape):
    student, teacher = torch.randn(shape), torch.randn(shape) * 4 + 2
    expected = reference_mse(student, teacher)
    for target in (torch.randn(shape), None, torch.zeros(5, 5, 5, dtype=torch.long)):
        loss = distillation_loss(student, teacher, target, temperature=2.0)
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_nested_outputs_are_summed_and_integers_passed_over():
    a, b = torch.randn(4, 3), torch.randn(4)
    c, d = torch.randn(4, 3), torch.randn(4)
    labels = torch.randint(3, (4,))
    loss = distillation_loss(
        {"class": a, "box": (b, labels)}, {"class": c, "box": (d, labels)}, labels, temperature=3.0
    )
    assert loss.item() == pytest.approx(reference_kl(a, c, 3.0) + reference_mse(b, d), rel=1e-4)


def test_a_pair_of_targets_belongs_to_a_pair_of_outputs():
    a, b, c, d = torch.randn(4, 3), torch.randn(4), torch.randn(4, 3), torch.randn(4)
    targets = (torch.randint(3, (4,)), torch.randn(4))
    loss = distillation_loss((a, b), (c, d), targets, temperature=3.0)
    assert loss.item() == pytest.approx(reference_kl(a, c, 3.0) + reference_mse(b, d), rel=1e-4)


def test_it_is_zero_and_flat_only_at_the_teacher_and_reaches_the_student_alone():
    student, teacher = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5, 4))
    labels = torch.randint(4, (5,))
    loss = distillation_loss(student, teacher, labels, temperature=4.0)
    loss.backward()
    assert loss.item() > 0
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert distillation_loss(teacher, teacher, labels, temperature=4.0).item() == pytest.approx(0, abs=1e-6)


def test_a_constant_teacher_gives_a_finite_loss():
    assert distillation_loss(torch.randn(4, 1), torch.ones(4, 1), None, temperature=1.0).isfinite()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ConfigError, match="must be alike"):
        distillation_loss(torch.randn(2, 3), (torch.randn(2, 3),), None, temperature=1.0)
    with pytest.raises(ConfigError, match=r"\(2, 3\), its teacher \(2, 1\)"):
        distillation_loss(torch.randn(2, 3), torch.randn(2, 1), None, temperature=1.0)
    with pytest.raises(ConfigError, match="no floating-point tensor"):
        distillation_loss(torch.ones(2).long(), torch.ones(2).long(), None, temperature=1.0)
