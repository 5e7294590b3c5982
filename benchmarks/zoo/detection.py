"""The trainable parts of torchvision's detectors: bodies (backbone and dense heads) and the heads of a region.

What is left to the caller: anchors, the matching of proposals, `roi_align` between the two parts, and suppression.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.vision import torchvision

ROWS = 3


class OneStage(nn.Module):
    """Images to the dense outputs of RetinaNet, FCOS and SSD."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> Any:
        features = self.backbone(images)
        return self.head(list(features.values()))


class Proposals(nn.Module):
    """Images to feature maps, objectness and box offsets of an R-CNN."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.rpn.head

    def forward(self, images: Tensor) -> Any:
        features = self.backbone(images)
        return features, self.head(list(features.values()))


def parts(name: str) -> dict[str, tuple[nn.Module, Any]]:
    """The parts of a detector with an example each."""
    detector = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    side = 300 if name.startswith("ssd300") else 128  # its last maps would be empty
    images = torch.randn(ROWS, 3, side, side)
    if not hasattr(detector, "rpn"):
        return {"body": (OneStage(detector), images)}
    channels = detector.backbone.out_channels
    found = {"body": (Proposals(detector), images)}
    for kind, side in (("box", 7), ("mask", 14), ("keypoint", 14)):
        head = getattr(detector.roi_heads, f"{kind}_head", None)
        if head is not None:
            whole = nn.Sequential(head, getattr(detector.roi_heads, f"{kind}_predictor"))
            found[kind] = whole, torch.randn(ROWS, channels, side, side)
    return found


def make(name: str, part: str) -> tuple[nn.Module, Any]:
    return parts(name)[part]


def _parts_of(name: str) -> list[str]:
    if "rcnn" not in name:
        return ["body"]
    return ["body", "box", *(kind for kind in ("mask", "keypoint") if kind in name)]


NETWORKS = {
    f"{name}/{part}": partial(make, name, part)
    for name in torchvision.models.list_models(module=torchvision.models.detection)
    for part in _parts_of(name)
}
