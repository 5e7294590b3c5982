"""What the world does to inputs: each corruption at three strengths, by the kind of tensor it can happen to.

Source: after Hendrycks & Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions".
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
_SMALLEST_IMAGE = 8


def noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of so many standard deviations of the values."""
    return x + strength * x.std() * torch.randn(x.shape, generator=generator)


def blur(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """A Gaussian blur; sigma in pixels of an image of 32, more in larger ones."""
    sigma *= max(1.0, min(x.shape[-2:]) / 32)
    reach = min(max(1, round(3 * sigma)), min(x.shape[-2:]) - 1)
    at = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    padded = F.pad(x, [reach] * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, None, :], groups=x.shape[1])
    return F.conv2d(rows, kernel[:, :, :, None], groups=x.shape[1])


def contrast(x: Tensor, kept: float, generator: torch.Generator) -> Tensor:
    """So much of each image's distance from its mean is kept."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + kept * (x - mean)


def shift(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Moved by such a share of the image to the right and down; what was at the edge fills the gap."""
    by = max(1, round(share * min(x.shape[-2:])))
    return F.pad(x, [by, 0, by, 0], mode="replicate")[..., : x.shape[-2], : x.shape[-1]]


def dropped(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Such a share of the tokens is gone, and the rest moves up; the last token, mostly padding, fills the end."""
    kept = torch.rand(x.shape, generator=generator) >= share
    order = (~kept).int().argsort(dim=1, stable=True)
    moved = x.gather(1, order)
    beyond = torch.arange(x.shape[1]) >= kept.sum(1, keepdim=True)
    return torch.where(beyond, x[:, -1:], moved)


STRENGTHS: dict[str, tuple[Corruption, tuple[float, float, float]]] = {
    "noise": (noise, (0.1, 0.2, 0.4)),
    "blur": (blur, (0.5, 0.8, 1.2)),
    "contrast": (contrast, (0.75, 0.5, 0.3)),
    "shift": (shift, (0.03, 0.06, 0.1)),
    "dropped tokens": (dropped, (0.05, 0.1, 0.2)),
}


def kinds(x: Tensor) -> tuple[str, ...]:
    """The corruptions that can happen to a tensor of rows."""
    if not x.is_floating_point():
        return ("dropped tokens",) if x.dim() == 2 and x.shape[1] > 1 and x.dtype != torch.bool else ()
    if x.dim() == 4 and x.shape[1] in (1, 3, 4) and min(x.shape[-2:]) >= _SMALLEST_IMAGE:
        return ("noise", "blur", "contrast", "shift")
    return ("noise",) if x.dim() > 1 else ()


def corrupted(inputs: Any, seed: int) -> Iterator[tuple[str, float, Any]]:
    """Every kind that some tensor of the inputs can have, at each strength: its name, the strength, and the inputs."""
    leaves, structure = pytree.tree_flatten(inputs)
    for name, (change, strengths) in STRENGTHS.items():
        if not any(name in kinds(leaf) for leaf in leaves):
            continue
        for strength in strengths:
            generator = torch.Generator().manual_seed(seed)
            changed = [change(leaf, strength, generator) if name in kinds(leaf) else leaf for leaf in leaves]
            yield name, strength, pytree.tree_unflatten(changed, structure)
