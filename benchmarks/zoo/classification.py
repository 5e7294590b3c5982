"""Every classification model of torchvision, at the smallest resolution that it takes without losing its shape."""

from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.vision import torchvision

ROWS = 3
RESOLUTION = {"inception_v3": 96, "maxvit_t": 224} | dict.fromkeys(
    ("vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"), 224
)
TOLD_NOT_TO_INITIALIZE = ("googlenet", "inception_v3")


def make(name: str) -> tuple[nn.Module, Any]:
    side = RESOLUTION.get(name, 64)
    options = {"init_weights": False} if name in TOLD_NOT_TO_INITIALIZE else {}
    return torchvision.models.get_model(name, weights=None, **options), torch.randn(ROWS, 3, side, side)


NETWORKS = {name: partial(make, name) for name in torchvision.models.list_models(module=torchvision.models)}
