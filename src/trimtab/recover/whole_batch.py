"""Batch norm over a batch whose rows are spread over processes: each normalizes its rows by the whole batch.

torch.nn.SyncBatchNorm does the same for modules on an accelerator; this one works on captured graphs and on any device.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_BATCH_NORM = torch.ops.aten.batch_norm.default
_TRAINING = 5  # the place of the flag among the operator's arguments


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; the gradient is the sum of theirs, for each of them read it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def gather(own: Tensor) -> Tensor:
    """[processes, *shape of own]: what every process gave, in order, differentiable.

    Each row is the exact value that its process gave, for the others add zeros.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    padding = [0, 0] * own.dim() + [rank, size - 1 - rank]
    return _Sum.apply(F.pad(own[None], padding))


def moments(x: Tensor, dims: list[int], *, present: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Count (a scalar), mean and biased variance of the whole batch, over `dims` of `x`; differentiable.

    `present=False`: this process has no rows, and its `x` does not count.
    Source: Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
    """
    x = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(x, dims, correction=0)
    count = mean.new_tensor([x.numel() // max(1, mean.numel()) * present])
    everyone = gather(torch.cat([count, mean.flatten(), variance.flatten()]))
    counts, means, variances = everyone.split([1, mean.numel(), mean.numel()], dim=1)
    share = counts / counts.sum()
    whole = (share * means).sum(0)
    spread = (share * (variances + (means - whole).square())).sum(0)
    return counts.sum(), whole.view_as(mean), spread.view_as(mean)


class WholeBatch(TorchFunctionMode):
    """Inside, batch norms that normalize by their batch take the statistics of all processes' rows together.

    Running statistics move as they would in one process (by the unbiased variance of the whole batch).
    """

    def __init__(self, *, present: bool) -> None:
        super().__init__()
        self.present = present

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Every call of torch passes through here; all but batch norm in training go on."""
        if func is _BATCH_NORM and args[_TRAINING]:
            return self._batch_norm(*args)
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn: bool,
    ) -> Tensor:
        count, mean, variance = moments(x, [dim for dim in range(x.dim()) if dim != 1], present=self.present)
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            if running_var is not None:
                running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
        scale = (variance + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        along = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(along), x.to(scale.dtype), scale.view(along)).to(x.dtype)
