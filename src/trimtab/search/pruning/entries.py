"""Zeros inside layers: single weights, kernels, tiles, and N of M."""

from collections.abc import Callable, Mapping, Sequence

from trimtab.apply import apply
from trimtab.errors import ConfigError, PlanError
from trimtab.graph import Network
from trimtab.measure.cost import layer_macs
from trimtab.plan import LayerDecision, NofM, Plan, Sparsity
from trimtab.prune import EntryCriterion
from trimtab.prune.granularity import check, pieces
from trimtab.prune.masks import prunable
from trimtab.search.pruning.granularity import Asked
from trimtab.search.pruning.scoring import scorer
from trimtab.search.pruning.subject import Subject
from trimtab.stats import Stats


class Entries:
    """Every layer whose weight the sparsity divides; others stay dense. At least one piece of each is left.

    A piece's score is the mean over its entries, so that kernels and tiles of different layers can be compared.
    """

    def __init__(self, asked: Asked, pieces: str, sparsity: Callable[[float], Sparsity]) -> None:
        self.asked, self.criterion, self.pieces, self._sparsity = asked, asked.criterion, pieces, sparsity

    def subjects(self, keep: float | None = None) -> list[Subject]:
        """The layers, in graph order. Raises: ConfigError as `scorer`."""
        asked = self.asked
        score: EntryCriterion = scorer(asked.criterion, asked.stats, EntryCriterion, of="single weights")
        some = self._sparsity(0.5)
        found = []
        for layer, parameter in divisible(asked, some).items():
            scores = score.entries(asked.network, parameter, asked.stats or Stats())
            summed = pieces(scores, some).flatten()
            size = scores.numel() // summed.numel()  # a kernel has nine entries here, one there
            found.append(Subject(name=layer, scores=summed / size, shape=tuple(scores.shape)))
        return found

    def plan(self, subjects: Sequence[Subject], removed: Mapping[str, int]) -> Plan:
        """The share of each layer, which `apply` takes from the lowest scores."""
        decisions = []
        for subject in subjects:
            if removed.get(subject.name):
                sparsity = self._sparsity(removed[subject.name] / subject.pieces)
                decisions.append(LayerDecision(layer=subject.name, sparsity=sparsity, criterion=self.asked.criterion))
        return self.asked.plan(layers=tuple(decisions))

    def layer_macs(self, removed: Mapping[str, int]) -> int:
        """All of them: a zero is multiplied, too."""
        network = self.asked.network
        return sum(layer_macs(network, layer) for layer in network.layers)

    def without(self, subjects: Sequence[Subject], removed: Mapping[str, int]) -> Network:
        """With the zeros in force."""
        return apply(self.asked.network, self.plan(subjects, removed), self.asked.stats)


def n_of_m_plan(asked: Asked, sparsity: NofM) -> Plan:
    """Every layer whose inputs are a multiple of M. Raises: ConfigError when there is none."""
    scorer(asked.criterion, asked.stats, EntryCriterion, of="single weights")
    layers = divisible(asked, sparsity)
    if not layers:
        raise ConfigError(
            f"prune: no layer's inputs are a multiple of {sparsity.of}, so that {sparsity.kept}:{sparsity.of} fits "
            "nowhere; take weights, or another N:M"
        )
    decided = (LayerDecision(layer=layer, sparsity=sparsity, criterion=asked.criterion) for layer in layers)
    return asked.plan(layers=tuple(decided))


def divisible(asked: Asked, sparsity: Sparsity) -> dict[str, str]:
    """Layers that may have such a sparsity → their parameters."""
    parameters, known = dict(asked.network.named_parameters()), prunable(asked.network)
    asked.check_leave(known, "layer")
    found = {}
    for layer, name in known.items():
        if layer not in asked.leave and _divides(layer, parameters[name].shape, sparsity):
            found[layer] = name
    return found


def _divides(layer: str, shape: Sequence[int], sparsity: Sparsity) -> bool:
    try:
        check(layer, shape, sparsity)
    except PlanError:
        return False
    return True
