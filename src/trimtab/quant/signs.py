"""Binary activations: a sign times a scale, for networks whose weights are binary too."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.quant.activations import ActivationFakeQuantize
from trimtab.quant.grids import Fit
from trimtab.quant.ranges import Range

SIGN_STEP = 2.0**-40
"""The step with which a sign is written: all but zero saturates. Below any other step, and exact in float32."""


class Signs:
    """`value = scale · (code − 1)` with codes 0, 1, 2: a zero point of 1, so that zero is there for padding.

    A kernel writes them with the step `SIGN_STEP`, clamped to 0 … 2, and reads them with their scale.
    """

    bits = 1
    signed = False
    zero = uniform = saturates = True
    low, high = 0, 2

    def fit(self, values: Tensor) -> Fit:
        """The mean magnitude of each row of `values` [rows, n]."""
        return self.fit_range(-values.abs().mean(1), values.abs().mean(1))

    def fit_range(self, low: Tensor, high: Tensor) -> Fit:
        """Values −scale and scale at the ends of a range; an empty one gets scale 1."""
        scale = torch.maximum(low.abs(), high.abs())
        scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
        return Fit(scale, torch.ones_like(scale))

    def encode(self, values: Tensor, fit: Fit) -> Tensor:
        """0, 1 or 2 for values below, at and above zero, in float."""
        return values.sign() + 1

    def integers(self, codes: Tensor, fit: Fit) -> Tensor:
        """A code is its integer."""
        return codes

    def decode(self, codes: Tensor, fit: Fit) -> Tensor:
        """Values of `codes` [rows, n]."""
        return (codes - 1) * fit.scale[:, None]


class MeanMagnitude:
    """[−m, m], where m = mean |x|: with it m · sign(x) has the least squared error.

    Source: Rastegari et al. 2016, "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    eq. 6.
    """

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def see(self, x: Tensor) -> None:
        """Add up the magnitudes."""
        self._sum += float(x.abs().sum(dtype=torch.float64))
        self._count += x.numel()

    def range(self, grid: object) -> Range:
        """The same for every grid."""
        mean = torch.tensor([self._sum / self._count])
        return Range(-mean, mean)


class Sign(ActivationFakeQuantize):
    """x̂ = scale · sign(x). The gradient to x is that of the hard tanh: `scale` where |x| <= 1, else 0.

    ∂x̂/∂scale = sign(x), damped as LSQ's. sign(0) is 0. The scale is first the mean magnitude, whatever `ranges` says.
    Put it where values have both signs and variance about 1: behind a batch norm, not behind a ReLU (there the
    affine grid of 1 bit is the binary one).
    Source: Hubara et al. 2016, "Binarized Neural Networks", eq. 4; the scale: Rastegari et al. 2016, "XNOR-Net".
    """

    def __init__(self, grid: object, where: str, ranges: str = "minmax") -> None:
        super().__init__(Signs(), where, ranges)
        self._new_estimator = MeanMagnitude

    def rounded(self, x: Tensor) -> Tensor:
        """Signs times the scale, with the gradients of the hard tanh and of LSQ."""
        scale, damping = self.step(), self.damping(x)
        damped = scale * damping + (scale * (1 - damping)).detach()
        passing = F.hardtanh(x)
        return (damped * (passing + (x.sign() - passing).detach())).to(x.dtype)

    def written_step(self) -> Tensor:
        """A sign is written with a step that saturates."""
        return torch.full_like(self.scale.detach(), SIGN_STEP)
