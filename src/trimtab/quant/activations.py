"""Fake-quantization of activations: a module that rounds to a grid in float, straight through, with a learned scale.

Scales follow LSQ (Esser et al. 2020, "Learned Step Size Quantization", eq. 3 and section 2.2): they are parameters,
and their gradient is damped by 1 / sqrt(entries · largest code).
"""

import torch
from torch import Tensor, nn

from trimtab.errors import NumericsError
from trimtab.quant.grids import UniformGrid

SMALLEST_SCALE = 1e-12


class ActivationFakeQuantize(nn.Module):
    """One scale and zero point for a whole activation tensor. Call it under `observe` first to learn its range."""

    elementwise = True  # what the graph analysis needs to know

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, grid: UniformGrid, where: str) -> None:
        super().__init__()
        self.grid, self.where = grid, where
        self.observing, self._fitted = False, False
        self.scale = nn.Parameter(torch.full((1,), torch.nan))
        self.register_buffer("zero_point", torch.zeros(1))
        self.register_buffer("low", torch.full((1,), torch.inf), persistent=False)
        self.register_buffer("high", torch.full((1,), -torch.inf), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self.low = torch.minimum(self.low, x.amin().float())
            self.high = torch.maximum(self.high, x.amax().float())
            return x
        return torch._fake_quantize_learnable_per_tensor_affine(
            x,
            self.step(),
            self.zero_point,
            self.grid.low,
            self.grid.high,
            (x.numel() * self.grid.high) ** -0.5,
        )

    def step(self) -> Tensor:
        """The scale as it is used, positive. Raises: NumericsError while the range is not known."""
        if not self._fitted:
            self._check_fitted()
        return self.scale.clamp(min=SMALLEST_SCALE)

    def observe(self) -> None:
        """Pass values through unrounded and keep their range, until `fit`."""
        self.observing = True
        self.low.fill_(torch.inf)
        self.high.fill_(-torch.inf)

    def fit(self) -> None:
        """Set scale and zero point from the range seen. Raises: NumericsError when it is empty or not finite."""
        if not bool(torch.isfinite(self.high - self.low).all()):
            seen = f"[{float(self.low)}, {float(self.high)}]"
            raise NumericsError(
                f"{self.where}: activation range must be finite, got {seen}; check the calibration data"
            )
        fit = self.grid.fit_range(self.low, self.high)
        with torch.no_grad():
            self.scale.copy_(fit.scale)
            self.zero_point.copy_(fit.zero_point)
        self.observing = False

    def _check_fitted(self) -> None:
        self._fitted = bool(torch.isfinite(self.scale.detach()).all())
        if not self._fitted:
            raise NumericsError(
                f"{self.where}: the activation range is not known yet; call calibrate(network, data) first"
            )
