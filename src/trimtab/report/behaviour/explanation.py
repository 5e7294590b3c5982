"""Whether the compressed network looks at the same things: three attributions of the same rows, in rank correlation."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.graph import Network
from trimtab.measure import macs
from trimtab.plan.behaviour import Aspect, Check
from trimtab.report.behaviour.compared import Compared, LeftOutError, first, inputs_of
from trimtab.tasks import call, evaluating

_ROWS, _FEWEST_PARTS, _PARTS_A_SIDE, _PARTS = 4, 4, 7, 48
_STEPS, _SAMPLES, _AT_A_TIME = 24, 160, 40
_PASSES, _MACS = 2 * (2 * _SAMPLES + 3 * _STEPS), 5e11
"""Through both networks for one row; and what all of them may take."""


@dataclass(frozen=True)
class _Question:
    """Inputs, the parts they are made of, and the weights [rows, …] with which outputs count as one number a row."""

    inputs: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    weight: Tensor

    @property
    def parts(self) -> int:
        """How many parts all inputs have together."""
        return int(self.masks[-1].max()) + 1


Score = Callable[..., Tensor]
"""From the inputs and the weights to one number a row."""
Method = Callable[[Score, _Question], tuple[Tensor, ...]]


def explanation(compared: Compared, at_most: float) -> Check:
    """1 − the mean rank correlation between both networks' attributions: of the method where they differ most.

    Integrated gradients (inputs of floats only), SHAP and LIME say of each part of the input how much it did for what
    the original predicts. Parts are the fields of a grid over images, stretches of a sequence, or single features.
    Of large networks fewer rows are looked at.
    Raises: LeftOutError for inputs of fewer than four parts, networks beyond 600 M MACs, or without Captum.
    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks"; Lundberg & Lee 2017, "A Unified
    Approach to Interpreting Model Predictions"; Ribeiro et al. 2016, "Why Should I Trust You?".
    """
    assert compared.task.test is not None
    rows = min(_ROWS, int(_MACS / _PASSES / max(1, macs(compared.original))))
    if rows < 1:
        raise LeftOutError(f"{_PASSES} passes for each row take too long with so many MACs")
    inputs, structure = pytree.tree_flatten(inputs_of(first(compared.task.test, rows)))
    scores = [_score(network, structure) for network in (compared.original, compared.trained)]
    with evaluating(compared.original), evaluating(compared.trained):
        with torch.no_grad():
            outputs = _floats(call(compared.original, pytree.tree_unflatten(inputs, structure)))
        question = _Question(tuple(inputs), parts_of(inputs), _predicted(outputs))
        if question.parts < _FEWEST_PARTS:
            raise LeftOutError(f"inputs of fewer than {_FEWEST_PARTS} parts have no order to compare")
        correlations = {}
        for name, method in _methods(inputs).items():
            found = [_by_part(_seeded(method, score, question, compared.seed), question) for score in scores]
            correlations[name] = _correlation(*found)
    worst = min(correlations, key=correlations.__getitem__)
    measured = 1 - correlations[worst]
    said = ", ".join(f"{name} {value:.2f}" for name, value in correlations.items())
    verdict = (
        f"it looks at the same parts of the input (rank correlation: {said})"
        if measured <= at_most
        else f"it decides by other parts of the input than the original (rank correlation: {said}); look whether they "
        "are parts that it should decide by"
    )
    aspects = tuple(
        Aspect(label=f"{name}: rank correlation with the original", before=None, after=value)
        for name, value in correlations.items()
    )
    return Check(name="explanation", measured=measured, at_most=at_most, verdict=verdict, aspects=aspects)


def parts_of(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """For each input the part that each of its elements belongs to [1, …]; numbers go on from input to input."""
    masks, begin = [], 0
    for x in inputs:
        shape = x.shape[1:]
        if len(shape) >= 2:  # the last two dimensions are cut into fields; what lies before belongs together
            sides = [_slots(size, _PARTS_A_SIDE) for size in shape[-2:]]
            mask = sides[0][:, None] * (int(sides[1].max()) + 1) + sides[1]
        else:
            mask = _slots(shape[0], _PARTS) if shape else torch.zeros((), dtype=torch.long)
        mask = mask + begin
        begin = int(mask.max()) + 1
        masks.append(mask.expand(1, *shape).contiguous())
    return tuple(masks)


def _slots(size: int, most: int) -> Tensor:
    """Which of at most so many equal stretches each position lies in."""
    return torch.arange(size) * min(size, most) // size


def _score(network: Network, structure: Any) -> Score:
    def score(*leaves: Tensor) -> Tensor:
        *parts, weight = leaves
        outputs = _floats(call(network, pytree.tree_unflatten(parts, structure)))
        return (outputs * weight).flatten(1).sum(1)

    return score


def _floats(outputs: Any) -> Tensor:
    """The first output that is of floats."""
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf if leaf.dim() > 1 else leaf[:, None]
    raise LeftOutError("no output is of floats")


def _predicted(outputs: Tensor) -> Tensor:
    """1 at the largest of a row's outputs, where it has several; else its sign."""
    if outputs.dim() == 2 and outputs.shape[1] > 1:
        return torch.zeros_like(outputs).scatter_(1, outputs.argmax(1, keepdim=True), 1.0)
    return outputs.sign()


def _methods(inputs: Sequence[Tensor]) -> dict[str, Method]:
    """By name. Raises: LeftOutError without Captum."""
    try:
        from captum._utils.models.linear_model import SkLearnLinearRegression
        from captum.attr import IntegratedGradients, KernelShap, Lime
    except ImportError as error:
        raise LeftOutError("Captum is not installed; `pip install 'trimtab[explain]'`") from error

    def gradients(score: Score, of: _Question) -> tuple[Tensor, ...]:
        method = IntegratedGradients(score)
        return method.attribute(
            of.inputs, additional_forward_args=of.weight, n_steps=_STEPS, internal_batch_size=_AT_A_TIME
        )

    def by_samples(make: Callable[[Score], Any]) -> Method:
        def method(score: Score, of: _Question) -> tuple[Tensor, ...]:
            rows = []
            for row, weight in enumerate(of.weight.split(1)):  # both methods take one row at a time
                made = make(lambda *leaves, weight=weight: score(*leaves, weight))
                inputs = tuple(x[row : row + 1] for x in of.inputs)
                rows.append(
                    made.attribute(inputs, feature_mask=of.masks, n_samples=_SAMPLES, perturbations_per_eval=_AT_A_TIME)
                )
            return tuple(torch.cat(column) for column in zip(*rows, strict=True))

        return method

    found: dict[str, Method] = {
        "SHAP": by_samples(KernelShap),
        "LIME": by_samples(lambda score: Lime(score, interpretable_model=SkLearnLinearRegression())),
    }
    return {"integrated gradients": gradients, **found} if all(x.is_floating_point() for x in inputs) else found


def _seeded(method: Method, score: Score, question: _Question, seed: int) -> tuple[Tensor, ...]:
    """With the same draws for both networks."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            return method(score, question)
        except RuntimeError as error:
            raise LeftOutError(f"attribution failed: {str(error).partition(chr(10))[0]}") from error


def _by_part(attributions: tuple[Tensor, ...], question: _Question) -> Tensor:
    """Means over each part [rows, parts]."""
    total = torch.zeros(len(attributions[0]), question.parts, dtype=torch.float64)
    for attribution, mask in zip(attributions, question.masks, strict=True):
        total.index_add_(1, mask.flatten(), attribution.detach().double().flatten(1))
    return total / torch.bincount(torch.cat([mask.flatten() for mask in question.masks]), minlength=question.parts)


def _correlation(ours: Tensor, theirs: Tensor) -> float:
    """Spearman's, a mean over the rows; a row without any order counts as equal where both have none."""
    found = []
    for one, other in zip(ours, theirs, strict=True):
        if one.std() == 0 or other.std() == 0:
            found.append(1.0 if one.std() == other.std() else 0.0)
        else:
            found.append(float(spearmanr(one.numpy(), other.numpy()).statistic))
    return sum(found) / len(found)
