"""Every video model of torchvision. Inputs are [N, 3, frames, height, width]."""

from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.vision import torchvision

SHAPE = {"mvit_v1_b": (16, 224, 224), "mvit_v2_s": (16, 224, 224), "s3d": (16, 224, 224)}


def make(name: str) -> tuple[nn.Module, Any]:
    return torchvision.models.get_model(name, weights=None), torch.randn(3, 3, *SHAPE.get(name, (8, 64, 64)))


NETWORKS = {name: partial(make, name) for name in torchvision.models.list_models(module=torchvision.models.video)}
