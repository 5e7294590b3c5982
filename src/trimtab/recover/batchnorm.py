"""Re-estimate BatchNorm statistics after the weights before them have changed."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from trimtab.errors import NumericsError, TaskError
from trimtab.graph import Network
from trimtab.tasks.task import Inputs

_BATCH_NORM = torch.ops.aten.batch_norm.default


def has_batch_norm(network: Network) -> bool:
    """Whether any operator of the graph is a BatchNorm."""
    return any(node.target is _BATCH_NORM for node in network.module.graph.nodes)


class _Moments:
    """Count, mean and sum of squared deviations per channel, merged batch by batch in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """`x`: [batch, channels, …].

        Source: Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
        """
        dims = [d for d in range(x.dim()) if d != 1]
        count = x.numel() // x.shape[1]
        variance, mean = (moment.double() for moment in torch.var_mean(x.float(), dims, correction=0))
        delta = mean - self.mean
        total = self.count + count
        self.mean += delta * (count / total)
        self.squares += variance * count + delta.square() * (self.count * count / total)
        self.count = total

    def variance(self) -> Tensor:
        """Unbiased, as BatchNorm keeps it."""
        return self.squares / max(1, self.count - 1)


class _Estimator(fx.Interpreter):
    """Runs the graph with every BatchNorm on its batch's statistics, and gathers them by the names of its buffers."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.moments: dict[tuple[str, str], _Moments] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function" or n.target is not _BATCH_NORM:
            return super().run_node(n)
        buffers = tuple(arg.target if isinstance(arg, fx.Node) else "" for arg in n.args[3:5])
        x, weight, bias, *_, momentum, eps, _cudnn = self.fetch_args_kwargs_from_env(n)[0]
        if not all(isinstance(name, str) and name for name in buffers):
            return super().run_node(n)  # a norm without running statistics has nothing to estimate
        self.moments.setdefault((str(buffers[0]), str(buffers[1])), _Moments(x.shape[1])).add(x)
        return F.batch_norm(x, None, None, weight, bias, True, momentum, eps)


def reestimate_batchnorm(network: Network, batches: Iterable[Inputs]) -> Network:
    """A copy of `network` whose running statistics are the mean and variance of what each BatchNorm sees on `batches`.

    One pass: every BatchNorm normalizes by its batch (dropout is off), so batches should be as large as in training.
    Mean and variance are over all rows of all batches together, whatever their sizes. Inputs only, no targets.
    Raises: TaskError for no batches, NumericsError when a statistic is not finite.
    """
    result = network.clone()
    result.eval()
    estimator, seen = _Estimator(result.module), 0
    with torch.no_grad():
        for inputs in batches:
            estimator.run(*_positional(result, inputs), enable_io_processing=False)
            seen += 1
    if seen == 0:
        raise TaskError("reestimate_batchnorm: no batches; give at least one")
    for names, moments in estimator.moments.items():
        for name, value in zip(names, (moments.mean, moments.variance()), strict=True):
            if not bool(value.isfinite().all()):
                raise NumericsError(f"{name}: NaN or infinity in the re-estimated statistics; check weights and data")
            result.module.get_buffer(name).copy_(value)
    result.train(network.training)
    return result


def _positional(network: Network, inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors of one batch in the order of the graph's inputs, which is that of the network's example."""
    if isinstance(inputs, dict):
        assert isinstance(network.example, dict)
        return tuple(inputs[name] for name in network.example)
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
