"""Every criterion keeps its promises on a CNN, an LSTM and a transformer; one that breaks them is caught."""

import pytest
import torch
import torch.nn.functional as F
from criteria_nets import KINDS, make
from torch import Tensor

from trimtab.prune import CRITERIA, EntryCriterion, Scores
from trimtab.testing import check_criterion, criterion_cases
from trimtab.testing.criteria import permuted

NORMS_NEEDED, LAYERS_NEEDED, WEIGHTS_ONLY = {"batchnorm_scale"}, {"obs"}, {"lamp"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", criterion_cases())
def test_every_criterion_conforms(name: str, kind: str) -> None:
    network, batches = make(kind)
    scored = check_criterion(name, network, batches, F.cross_entropy)
    assert scored == (0 if name in WEIGHTS_ONLY else len(network.groups)) or name in NORMS_NEEDED | LAYERS_NEEDED


@pytest.mark.parametrize("kind", KINDS)
def test_a_permuted_network_computes_the_same(kind: str) -> None:
    network, batches = make(kind)
    other = permuted(network, lambda group: torch.arange(group.width).flip(0))
    torch.testing.assert_close(other(batches[0][0]), network(batches[0][0]))
    names = dict(network.named_parameters())
    assert any(not torch.equal(p, names[name]) for name, p in other.named_parameters())


class Liar:
    """Scores units by their index, the first the lowest."""

    needs, promises = frozenset(), frozenset({"useless_unit"})
    kind = "torch.float64"

    def __call__(self, network, group, stats) -> Scores:
        return Scores(group=group.name, values=self.score(torch.arange(group.width, dtype=torch.float64)))

    def score(self, values: Tensor) -> Tensor:
        return values


class Unpermuted(Liar):
    promises = frozenset({"equivariant"})


class Scaled(Liar):
    promises = frozenset({"scale_free"})

    def __call__(self, network, group, stats) -> Scores:
        return Scores(group=group.name, values=network.module.stem.weight.detach().double().norm().expand(group.width))


class Chance(Liar):
    promises = frozenset()

    def score(self, values: Tensor) -> Tensor:
        return torch.rand_like(values)


class Short(Liar):
    promises = frozenset()

    def score(self, values: Tensor) -> Tensor:
        return values[:-1]


class Single(Liar):
    promises = frozenset()

    def score(self, values: Tensor) -> Tensor:
        return values.float()


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Liar, "the unit of zeros has the lowest"),
        (Unpermuted, "units in another order"),
        (Scaled, "scale does not matter"),
        (Chance, "the same every time"),
        (Short, "one score a unit"),
        (Single, "scores are float64"),
    ],
)
def test_a_criterion_that_lies_is_caught(monkeypatch: pytest.MonkeyPatch, kind: type, broken: str) -> None:
    network, batches = make("images")
    monkeypatch.setattr(CRITERIA, "load", lambda name: kind)
    with pytest.raises(AssertionError, match=broken):
        check_criterion("liar", network, batches, F.cross_entropy)


def test_most_criteria_score_single_weights() -> None:
    entries = {name for name in CRITERIA if isinstance(CRITERIA.load(name)(), EntryCriterion)}
    assert entries >= {"magnitude", "magnitude_l1", "lamp", "gradient", "taylor", "fisher", "hessian", "activation"}
    assert not entries & {"ablation", "apoz", "entropy", "mutual_information"}
