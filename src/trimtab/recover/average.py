"""An exponential moving average of a network's weights, kept beside it while it trains."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.graph import Network
from trimtab.prune.masks import hold

_UPDATES = "updates"


class Average:
    """`network` holds the average, in eval mode: of weights, scales and floating-point buffers; the rest is copied.

    At first it is the plain mean of all updates, until that is slower than `decay`.
    Source: Tarvainen & Valpola 2017, "Mean teachers are better role models", sec. 2 and its ramp-up of the decay.
    """

    def __init__(self, source: Network, decay: float) -> None:
        self.network = source.clone().eval()
        self.decay, self.updates = decay, 0
        ours, theirs = self.network.state_dict(), source.state_dict()
        averaged = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        self._averaged = [ours[name] for name in averaged], [theirs[name] for name in averaged]
        self._copied = [(ours[name], theirs[name]) for name in ours.keys() - set(averaged)]
        self._parameters = dict(self.network.named_parameters())

    def update(self, masks: Mapping[str, Tensor]) -> None:
        """Once after every update of the source. What `masks` (True is kept) remove is zero in the average too."""
        decay = min(self.decay, 1 - 1 / (self.updates + 1))
        with torch.no_grad():
            torch._foreach_lerp_(*self._averaged, 1 - decay)
            for ours, theirs in self._copied:
                ours.copy_(theirs)
            if masks:
                hold(self._parameters, masks)
        self.updates += 1

    def state(self) -> dict[str, Tensor]:
        """A copy, from which `restore` goes on exactly."""
        tensors = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        return {f"network.{name}": tensor for name, tensor in tensors.items()} | {_UPDATES: torch.tensor(self.updates)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave."""
        self.updates = int(tensors[_UPDATES])
        self.network.load_state_dict(
            {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name != _UPDATES}
        )
