"""torchvision, whose wheel cannot load its compiled operators beside a CPU build of torch.

Its Python code needs only that they are declared.
"""

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision as torchvision  # noqa: E402  after the declarations
