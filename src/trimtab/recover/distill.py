"""Distillation: how far a student's outputs are from its teacher's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError

_SMALLEST_VARIANCE = 1e-6


def distillation_loss(outputs: Any, teacher: Any, target: Any, *, temperature: float) -> Tensor:
    """Distance of `outputs` from `teacher`, a scalar; outputs nested in tuples, lists or dicts are summed leaf by leaf.

    Class logits (N, C, …) or (N, …, C) with integer classes (N, …) as target: temperature² · KL(teacher ‖ student) of
    the softened classes, a mean over positions. Anything else in floating point: mean squared difference divided by
    the variance of the teacher's output in this batch. Leaves that are not floating point are passed over.
    Raises: ConfigError when the two outputs have different structures or shapes, or nothing in floating point.
    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", sec. 2.
    """
    students, shape = pytree.tree_flatten(outputs)
    teachers, teacher_shape = pytree.tree_flatten(teacher)
    if shape != teacher_shape:
        raise ConfigError(f"distillation: the network returns {shape}, its teacher {teacher_shape}; they must be alike")
    targets = pytree.tree_leaves(target)
    if len(targets) != len(students):
        targets = [target] * len(students)
    losses = [
        _leaf_loss(student, reference, label, temperature)
        for student, reference, label in zip(students, teachers, targets, strict=True)
        if isinstance(student, Tensor) and student.is_floating_point()
    ]
    if not losses:
        raise ConfigError("distillation: the network returns no floating-point tensor; set distillation=0")
    return torch.stack(losses).sum()


def _leaf_loss(student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
    if student.shape != teacher.shape:
        raise ConfigError(
            f"distillation: the network returns {tuple(student.shape)}, its teacher {tuple(teacher.shape)}; "
            "they must be alike"
        )
    student, teacher = student.float(), teacher.detach().float()
    classes = _class_dim(student, target)
    if classes is None:
        variance = teacher.var(correction=0).clamp_min(_SMALLEST_VARIANCE)
        return F.mse_loss(student, teacher) / variance
    log_student = (student / temperature).log_softmax(classes)
    log_teacher = (teacher / temperature).log_softmax(classes)
    divergence = F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(classes)
    return divergence.mean() * temperature**2


def _class_dim(outputs: Tensor, target: Any) -> int | None:
    """The dimension of `outputs` that integer classes in `target` index, or None."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool or outputs.dim() < 2:
        return None
    for dim in (1, outputs.dim() - 1):
        if outputs.shape[dim] > 1 and target.shape == outputs.shape[:dim] + outputs.shape[dim + 1 :]:
            return dim
    return None
