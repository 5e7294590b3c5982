"""Distillation: how far a student's outputs are from its teacher's."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError

SMALLEST_VARIANCE = 1e-6


def whole_variance(x: Tensor) -> Tensor:
    """The biased variance of all entries."""
    return x.var(correction=0)


def distillation_loss(
    outputs: Any,
    teacher: Any,
    target: Any,
    *,
    temperature: float,
    classes: Sequence[int | None] | None = None,
    variance: Callable[[Tensor], Tensor] = whole_variance,
) -> Tensor:
    """Distance of `outputs` from `teacher`, a scalar; outputs nested in tuples, lists or dicts are summed leaf by leaf.

    Class logits (N, C, …) or (N, …, C) with integer classes (N, …) as target: temperature² · KL(teacher ‖ student) of
    the softened classes, a mean over positions. Anything else in floating point: mean squared difference divided by
    the variance of the teacher's output in this batch. Leaves that are not floating point are passed over.
    `variance` is asked for that, where this batch is only a part of the one that is trained on.
    `classes` says for each leaf which dimension is classes, where there is no target to tell.
    Raises: ConfigError when the two outputs have different structures or shapes, or nothing in floating point.
    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", sec. 2.
    """
    students, shape = pytree.tree_flatten(outputs)
    teachers, teacher_shape = pytree.tree_flatten(teacher)
    if shape != teacher_shape:
        raise ConfigError(f"distillation: the network returns {shape}, its teacher {teacher_shape}; they must be alike")
    dims = class_dims(outputs, target) if classes is None else classes
    losses = [
        _leaf_loss(student, reference, dim, temperature, variance)
        for student, reference, dim in zip(students, teachers, dims, strict=True)
        if isinstance(student, Tensor) and student.is_floating_point()
    ]
    if not losses:
        raise ConfigError("distillation: the network returns no floating-point tensor; set distillation=0")
    return torch.stack(losses).sum()


def class_dims(outputs: Any, target: Any) -> tuple[int | None, ...]:
    """Of each leaf of `outputs` the dimension that integer classes in `target` index, or None."""
    leaves, targets = pytree.tree_leaves(outputs), pytree.tree_leaves(target)
    if len(targets) != len(leaves):
        targets = [target] * len(leaves)
    return tuple(_class_dim(leaf, label) for leaf, label in zip(leaves, targets, strict=True))


def _leaf_loss(
    student: Tensor, teacher: Tensor, classes: int | None, temperature: float, variance: Callable[[Tensor], Tensor]
) -> Tensor:
    if student.shape != teacher.shape:
        raise ConfigError(
            f"distillation: the network returns {tuple(student.shape)}, its teacher {tuple(teacher.shape)}; "
            "they must be alike"
        )
    student, teacher = student.float(), teacher.detach().float()
    if classes is None:
        return F.mse_loss(student, teacher) / variance(teacher).clamp_min(SMALLEST_VARIANCE)
    log_student = (student / temperature).log_softmax(classes)
    log_teacher = (teacher / temperature).log_softmax(classes)
    divergence = F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(classes)
    return divergence.mean() * temperature**2


def _class_dim(outputs: Any, target: Any) -> int | None:
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return None
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool or outputs.dim() < 2:
        return None
    for dim in (1, outputs.dim() - 1):
        if outputs.shape[dim] > 1 and target.shape == outputs.shape[:dim] + outputs.shape[dim + 1 :]:
            return dim
    return None
