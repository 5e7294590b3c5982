"""Fake-quantization of activations: a module that rounds to a grid in float, straight through, with a learned scale.

Scales follow LSQ (Esser et al. 2020, "Learned Step Size Quantization", eq. 3 and section 2.2): they are parameters,
and their gradient is damped by 1 / sqrt(entries · largest code).
"""

import torch
from torch import Tensor, nn

from trimtab.errors import NumericsError
from trimtab.quant.grids import UniformGrid
from trimtab.quant.ranges import RANGES, Range, RangeEstimator
from trimtab.quant.rounding import round_to_grid

SMALLEST_SCALE = 1e-12


class ActivationFakeQuantize(nn.Module):
    """One scale and zero point for a whole activation tensor. Call it under `observe` first to learn its range.

    `ranges` is how the range follows from what was observed (the registry RANGES). The scale is learned as in LSQ; the
    zero point stays.
    """

    elementwise = True  # what the graph analysis needs to know
    learned: tuple[str, ...] = ("scale",)  # parameters of the range
    damped: tuple[str, ...] = ("scale",)  # those whose gradient is damped by the number of entries
    decays = False  # whether they take part in weight decay

    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: UniformGrid, where: str, ranges: str = "minmax") -> None:
        super().__init__()
        self.grid, self.where = grid, where
        self._new_estimator = RANGES.load(ranges)
        self._estimator: RangeEstimator | None = None  # while observing
        self._seen, self._fitted = False, False
        self.scale = nn.Parameter(torch.full((1,), torch.nan))
        self.add_zero_point()

    def add_zero_point(self) -> None:
        """What holds the zero point."""
        self.register_buffer("zero_point", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self._estimator is not None:
            self._see(x)
            return x
        return self.rounded(x)

    def rounded(self, x: Tensor) -> Tensor:
        """Values of the grid, with LSQ's gradients."""
        return round_to_grid(x, self.step(), self.zero_point, self.grid.low, self.grid.high, self.damping(x))

    def damping(self, x: Tensor) -> float:
        """What the gradient of a learned step is multiplied with, so that it suits the size of the step."""
        return float((x.numel() * self.grid.high) ** -0.5)

    def step(self) -> Tensor:
        """The scale as it is used, positive. Raises: NumericsError while the range is not known."""
        if not self._fitted:
            self._check_fitted()
        return self.scale.clamp(min=SMALLEST_SCALE)

    def written_step(self) -> Tensor:
        """The step with which a kernel that writes these values rounds them; `step` is what they are read with."""
        return self.step().detach()

    @property
    def observing(self) -> bool:
        """Whether values pass through unrounded, and are looked at."""
        return self._estimator is not None

    def observe(self) -> None:
        """Pass values through unrounded and look at them, until `fit`."""
        self._estimator, self._seen = self._new_estimator(), False

    def ignore(self) -> None:
        """Observe no longer; the range stays what it was."""
        self._estimator = None

    def fit(self) -> None:
        """Set scale and zero point from what was observed. Raises: NumericsError when nothing was."""
        self.set_range(*self.observed())
        self.ignore()

    def observed(self) -> Range:
        """The range of what was observed. Raises: NumericsError when nothing was."""
        if self._estimator is None or not self._seen:
            raise NumericsError(
                f"{self.where}: no calibration batch reached this activation; "
                "give data that does, or leave the layers around it in float"
            )
        low, high = self._estimator.range(self.grid)
        return Range(low.to(self.scale.device), high.to(self.scale.device))

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Let the grid cover [low, high], [1] each."""
        fit = self.grid.fit_range(low, high)
        self.scale.copy_(fit.scale)
        self.zero_point.copy_(fit.zero_point)

    def _see(self, x: Tensor) -> None:
        assert self._estimator is not None
        if not x.numel():
            return
        if not bool(torch.isfinite(x).all()):
            raise NumericsError(
                f"{self.where}: this activation is NaN or infinite on calibration data; check data and weights"
            )
        self._estimator.see(x.detach())
        self._seen = True

    def _check_fitted(self) -> None:
        self._fitted = bool(torch.isfinite(self.scale.detach()).all())
        if not self._fitted:
            raise NumericsError(
                f"{self.where}: the activation range is not known yet; call calibrate(network, data) first"
            )
