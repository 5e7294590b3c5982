"""Number format and memory layout of training, decided by rules and not by timing, so that results repeat."""

from typing import Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from trimtab.graph import Network
from trimtab.recover.settings import Settings
from trimtab.tasks.rows import is_image
from trimtab.tasks.task import Inputs

_FEW_MACS = 2_000_000  # a sample; below that autocast's casts cost what the multiplications gain
_NARROW_LINEAR = 128


def training_dtype(network: Network, setting: Literal["auto", "float32", "bfloat16"]) -> torch.dtype:
    """bfloat16 or float32. "auto": bfloat16 where the processor has instructions for it and most MACs can use them.

    Convolutions gain from a few million MACs a sample on, wide linear layers gain more; narrow ones lose by the casts.
    """
    if setting != "auto":
        return torch.bfloat16 if setting == "bfloat16" else torch.float32
    return torch.bfloat16 if _multiplies_bfloat16() and _gains_from_bfloat16(network) else torch.float32


def _multiplies_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _gains_from_bfloat16(network: Network) -> bool:
    weights = dict(network.named_parameters())
    gaining = total = 0
    for layer in network.layers:
        shape = weights[layer.weight].shape
        macs = layer.positions * shape.numel()
        total += macs
        if layer.operator == "convolution" or min(shape) >= _NARROW_LINEAR:
            gaining += macs
    return gaining >= _FEW_MACS and 2 * gaining > total


def set_layout(network: Network | nn.Module, layout: torch.memory_format) -> None:
    """Lay the network's 4-D tensors out. No shape changes, so that nothing is analysed again, as `Network.to` would."""
    module = network if isinstance(network, nn.Module) else network.module
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)


def choose_layout(inputs: Inputs, settings: Settings) -> torch.memory_format:
    """Channels-last for networks of 4-D inputs."""
    images = any(is_image(x) for x in pytree.tree_leaves(inputs))
    return torch.channels_last if settings.channels_last and images else torch.contiguous_format
