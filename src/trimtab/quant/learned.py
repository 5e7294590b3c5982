"""What training learns of an activation's range besides LSQ's scale: LSQ+ its offset too, PACT only where it clips."""

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.plan import LayerDecision
from trimtab.quant.activations import ActivationFakeQuantize
from trimtab.quant.grids import GRIDS
from trimtab.quant.rounding import round_to_grid
from trimtab.quant.signs import Sign


class LsqPlus(ActivationFakeQuantize):
    """LSQ with a learned offset: `scale · (integer − zero_point)`, where zero_point = round(−offset / scale).

    Below and above the grid ∂x̂/∂offset is 1 and ∂x̂/∂scale the integer there; inside they are 0 and round(v) − v, with
    v = (x − offset) / scale. The zero point is rounded, straight through, so that zero stays on the grid and integer
    kernels pad exactly; the paper keeps it real. The gradient of both is damped. An offset that would put zero beyond
    the grid gets no gradient: zero is then at the grid's end, and this is LSQ. So it is on a signed grid, which has no
    zero point.
    Source: Bhalgat et al. 2020, "LSQ+: Improving low-bit quantization through learnable offsets and better
    initialization", eq. 4 to 8.
    """

    learned = ("scale", "offset")
    damped = ("scale", "offset")

    offset: Tensor

    def add_zero_point(self) -> None:
        """The offset takes its place."""
        self.offset = nn.Parameter(torch.zeros(1), requires_grad=not self.grid.signed)

    @property
    def zero_point(self) -> Tensor:  # type: ignore[override]
        """[1], an integer of the grid."""
        return (-self.offset.detach() / self.step().detach()).round().clamp(self.grid.low, self.grid.high)

    def rounded(self, x: Tensor) -> Tensor:
        """Values of the grid, with LSQ+'s gradients."""
        step, zero_point = self.step(), self.zero_point
        if not self.grid.signed:
            exact = (-self.offset / step).clamp(self.grid.low, self.grid.high)
            zero_point = exact + (zero_point - exact).detach()
        return round_to_grid(x, step, zero_point, self.grid.low, self.grid.high, self.damping(x))

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Let the grid cover [low, high], [1] each."""
        fit = self.grid.fit_range(low, high)
        self.scale.copy_(fit.scale)
        self.offset.copy_(-fit.zero_point * fit.scale)


class Pact(ActivationFakeQuantize):
    """A learned clip: values are clipped to [0, clip] and rounded there; ∂x̂/∂clip is 1 where x >= clip, else 0.

    The parameter is the scale, clip / largest integer, so ∂x̂/∂scale is that integer where x >= clip. Nothing damps it.
    With values of both signs the zero point stays, and the lower end moves in proportion. The paper adds λ · clip² to
    the loss with the λ of the weights; here the scale decays as weights do.
    Source: Choi et al. 2018, "PACT: Parameterized Clipping Activation for Quantized Neural Networks", eq. 1 to 3.
    """

    damped = ()
    decays = True

    def rounded(self, x: Tensor) -> Tensor:
        """Values of the grid, with PACT's gradients."""
        step = self.step()
        low, high = (step * (end - self.zero_point) for end in (self.grid.low, self.grid.high))
        clipped = torch.where(x >= high, high, torch.where(x < low, low, x.float()))
        on_grid = (clipped / step).round() * step
        return (clipped + (on_grid - clipped).detach()).to(x.dtype)


LEARNED = {"lsq": ActivationFakeQuantize, "lsq_plus": LsqPlus, "pact": Pact}


def rounding_of_activation(decision: LayerDecision, where: str) -> ActivationFakeQuantize:
    """The module that rounds the activation `where` as decided. Raises: ConfigError for an unknown grid or range."""
    scheme = decision.activation
    assert scheme is not None
    grid = GRIDS.load(scheme.grid)(scheme.bits)
    if scheme.grid == "binary":
        return Sign(grid, where, decision.ranges)
    if not grid.uniform:
        raise ConfigError(
            f"{where}: kernels round activations to evenly spaced values or signs, got grid {scheme.grid!r}; "
            "take 'affine', 'symmetric' or 'binary'"
        )
    return LEARNED[decision.learned](grid, where, decision.ranges)
