"""Collect statistics of a network over batches: every statistic that was asked for, in one pass."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from trimtab.errors import ConfigError, TaskError
from trimtab.graph import Network
from trimtab.registry import Registry
from trimtab.stats.found import Stats
from trimtab.stats.statistic import Statistic, no_loss
from trimtab.tasks.task import Loader, evaluating

STATISTICS = Registry(
    "statistic",
    {
        "ablation": "trimtab.stats.ablation:Ablation",
        "activation": "trimtab.stats.activation:Activation",
        "activity": "trimtab.stats.activity:Activity",
        "entropy": "trimtab.stats.entropy:Entropy",
        "fisher": "trimtab.stats.fisher:Fisher",
        "gram": "trimtab.stats.gram:Gram",
        "gradient": "trimtab.stats.gradient:Gradient",
        "hessian": "trimtab.stats.hessian:Hessian",
        "mean_gradient": "trimtab.stats.mean_gradient:MeanGradient",
        "movement": "trimtab.stats.movement:Movement",
        "mutual_information": "trimtab.stats.mutual_information:MutualInformation",
    },
)


def collect(
    network: Network, batches: Loader, loss: Callable[[Any, Any], Tensor] | None, needs: Collection[str]
) -> Stats:
    """Pass once over `batches` of `(inputs, target)` with the network in evaluation mode.

    `needs` names statistics (STATISTICS); those that are not supervised need neither `loss` nor targets. Mode, values,
    `.grad` and `requires_grad` of the network are afterwards what they were before.
    Raises: ConfigError for an unknown need, a missing loss, or targets that are None; TaskError for no batches;
    NumericsError for a loss or gradient that is not finite.
    """
    kinds: dict[str, type[Statistic]] = {name: STATISTICS.load(name) for name in sorted(needs)}
    if not kinds:
        return Stats()
    supervised = [name for name, kind in kinds.items() if kind.supervised]
    if supervised and loss is None:
        raise ConfigError(f"statistics: {supervised[0]!r} needs a loss, got None; {_remedy('the loss of the task')}")
    count = 0
    with evaluating(network), _requiring_grad(network):
        statistics = {name: kind(network, loss or no_loss) for name, kind in kinds.items()}
        for count, (inputs, target) in enumerate(batches, start=1):
            if supervised and target is None:
                raise ConfigError(
                    f"statistics: {supervised[0]!r} needs labels, and this run has none (the target of batch {count} "
                    f"is None); {_remedy('labels')}"
                )
            for statistic in statistics.values():
                statistic.add(inputs, target)
        if count == 0:
            raise TaskError("statistics: the loader has no batches; give at least one")
        found = {name: statistic.found() for name, statistic in statistics.items()}
    return Stats(batches=count, found=found)


def _remedy(what: str) -> str:
    return f"give {what}, or choose a criterion that needs none, such as 'magnitude' or 'activation'"


@contextmanager
def _requiring_grad(network: Network) -> Iterator[None]:
    """Floating-point parameters require gradients inside the block; frozen ones are frozen again afterwards."""
    frozen: list[nn.Parameter] = [p for p in network.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
