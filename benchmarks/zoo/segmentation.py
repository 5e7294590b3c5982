"""Every segmentation model of torchvision."""

from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.vision import torchvision


def make(name: str) -> tuple[nn.Module, Any]:
    return torchvision.models.get_model(name, weights=None, weights_backbone=None), torch.randn(3, 3, 64, 64)


NETWORKS = {
    name: partial(make, name) for name in torchvision.models.list_models(module=torchvision.models.segmentation)
}
