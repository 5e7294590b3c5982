"""How much single weights matter while they train: from their values, and from the gradients that training computes."""

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError, NumericsError

CRITERIA_IN_TRAINING = ("magnitude", "movement", "random", "taylor")
_OF_GRADIENTS = ("movement", "taylor")


class Importance:
    """Scores of the entries of weights; higher means keep, and those of a piece are added up.

    - magnitude: w²
    - taylor: the mean of |w·∂L/∂w| over the steps since the masks last changed (Molchanov et al. 2019, eq. 8)
    - movement: the sum of −w·∂L/∂w over all steps (Sanh et al. 2020, "Movement Pruning", eq. 6)
    - random: fresh at every change of the masks, from the seed

    w is the weight after the step whose gradient it is multiplied with.
    Raises: ConfigError for a criterion that training does not measure.
    """

    def __init__(self, criterion: str, parameters: Mapping[str, nn.Parameter], seed: int) -> None:
        if criterion not in CRITERIA_IN_TRAINING:
            raise ConfigError(
                f"criterion {criterion!r} is not measured while a network trains; known there: "
                f"{', '.join(CRITERIA_IN_TRAINING)}; or prune first (apply) and train with the schedule Static"
            )
        self.criterion, self.seed = criterion, seed
        self._parameters = parameters
        self._count = 0
        self._sums = {name: torch.zeros_like(p) for name, p in parameters.items()} if self.needs_gradients else {}

    @property
    def needs_gradients(self) -> bool:
        """Whether `observe` has to be called at every step."""
        return self.criterion in _OF_GRADIENTS

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Take one step's gradients in; `weights` by parameter. Raises: ConfigError for a missing gradient."""
        gradients = [gradient_of(name, p, f"criterion {self.criterion!r}") for name, p in self._parameters.items()]
        products = torch._foreach_mul([weights[name] for name in self._parameters], gradients)
        if self.criterion == "taylor":
            torch._foreach_abs_(products)
        torch._foreach_add_(list(self._sums.values()), products, alpha=1 if self.criterion == "taylor" else -1)
        self._count += 1

    def scores(self, name: str, weight: Tensor, step: int) -> Tensor:
        """Float64, in the shape of the weight. Raises: NumericsError when one is not finite."""
        values = self._values(name, weight.detach(), step)
        if not bool(torch.isfinite(values).all()):
            raise NumericsError(
                f"{name}: {self.criterion} is not finite at step {step}; lower the learning rate, or check the data"
            )
        return values

    def _values(self, name: str, weight: Tensor, step: int) -> Tensor:
        if self.criterion == "magnitude":
            return weight.double().square()
        if self.criterion == "random":
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{step}/{name}".encode()))
            return torch.rand(weight.shape, dtype=torch.float64, generator=generator).to(weight.device)
        return self._sums[name].double() / (max(self._count, 1) if self.criterion == "taylor" else 1)

    def masks_changed(self) -> None:
        """Begin averages anew."""
        if self.criterion == "taylor":
            torch._foreach_zero_(list(self._sums.values()))
            self._count = 0

    def state(self) -> dict[str, Tensor]:
        """Copies of what was gathered."""
        if not self.needs_gradients:
            return {}
        return {"count": torch.tensor(self._count)} | {f"sum/{name}": sum_.clone() for name, sum_ in self._sums.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        if self.needs_gradients:
            self._count = int(tensors["count"])
            for name, sum_ in self._sums.items():
                sum_.copy_(tensors[f"sum/{name}"])


def gradient_of(name: str, parameter: nn.Parameter, who: str) -> Tensor:
    """The gradient of the last backward pass. Raises: ConfigError when there is none."""
    if parameter.grad is None:
        raise ConfigError(
            f"{name}: {who} needs its gradient, got None; call step() after optimizer.step() and before zero_grad(), "
            f"and let the parameter train"
        )
    return parameter.grad
