"""L0: every weight has a random gate that learns to close, and the number of open gates is in the loss."""

import math

import torch
from torch import Tensor, nn

from trimtab.graph import Network
from trimtab.graph.analysis import attribute
from trimtab.graph.copying import described
from trimtab.prune.penalties.weights import total, weights_of

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""β, γ and ζ of the paper's experiments: a gate is stretched to (γ, ζ), then clipped to 0..1."""

OPEN = 3.0
"""The log α of a new gate: in eval mode it is then exactly 1, so that the network is at first unchanged."""


class HardConcrete(nn.Module):
    """Multiplies a weight with gates in 0..1, exactly 0 or 1 with some probability: random in training, fixed in eval.

    Training: z = clip(s·(ζ − γ) + γ) with s = sigmoid((log u − log(1 − u) + log α) / β), u uniform.
    Eval: z = clip(sigmoid(log α)·(ζ − γ) + γ).
    Source: Louizos, Welling & Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization", eq. 10-13.
    """

    elementwise = True  # what the graph analysis needs to know

    log_alpha: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full_like(weight, OPEN))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.sample() if self.training else self.fixed())

    def sample(self) -> Tensor:
        """One draw of all gates, differentiable in log α."""
        tiny = torch.finfo(self.log_alpha.dtype).eps
        u = torch.empty_like(self.log_alpha).uniform_(tiny, 1 - tiny)
        return _stretched(torch.sigmoid((u.log() - (-u).log1p() + self.log_alpha) / TEMPERATURE))

    def fixed(self) -> Tensor:
        """The gates of eval mode."""
        return _stretched(torch.sigmoid(self.log_alpha))

    def open(self) -> Tensor:
        """The probability of each gate that it is not zero (eq. 12)."""
        return torch.sigmoid(self.log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


class L0:
    """The expected number of open gates, one a weight of every layer. Negligible: a weight whose gate is 0 in eval.

    The gates are modules of the network, whose parameters the optimizer must be given too; `finish` multiplies the
    weights with the gates of eval mode and takes the modules out.
    Source: as `HardConcrete`.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._weights = weights_of(network, "l0")
        self._gates = {name: _insert(network, name, weight) for name, weight in self._weights.items()}
        network.module.recompile()
        network.refresh()

    def __call__(self) -> Tensor:
        return total({name: gate.open().sum() for name, gate in self._gates.items()})

    def negligible(self) -> float:
        """The share of all weights."""
        closed = sum(int((gate.fixed() == 0).sum()) for gate in self._gates.values())
        return closed / sum(weight.numel() for weight in self._weights.values())

    def finish(self) -> None:
        """The gates' values are in the weights, and the gates gone."""
        module = self._network.module
        inserted = {_path(name) for name in self._weights}
        with torch.no_grad():
            for name, gate in self._gates.items():
                self._weights[name].mul_(gate.fixed())
        for node in list(module.graph.nodes):
            if node.op == "call_module" and node.target in inserted:
                node.replace_all_uses_with(node.args[0])
                module.graph.erase_node(node)
        module.delete_submodule(_ROOT)
        module.recompile()
        self._network.refresh()


_ROOT = "hard_concrete"


def _insert(network: Network, name: str, weight: Tensor) -> HardConcrete:
    """A gate between every read of the parameter and its readers."""
    module, gate = network.module, HardConcrete(weight.detach())
    gate.train(network.training)
    module.add_submodule(_path(name), gate)
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and attribute(module, str(node.target)) is weight:
            with module.graph.inserting_after(node):
                call = module.graph.call_module(_path(name), (node,))
            call.meta = described(node)
            node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)
    return gate


def _path(name: str) -> str:
    return f"{_ROOT}.{name.replace('.', '_')}"


def _stretched(s: Tensor) -> Tensor:
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)
