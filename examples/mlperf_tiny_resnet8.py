"""CIFAR-10 with the pretrained ResNet-8 of MLPerf Tiny's image classification (Banbury et al. 2021), to be quantized.

    trimtab quantize examples/mlperf_tiny_resnet8.py

Needs the folders of `cifar10_resnet.py`: TRIMTAB_DATA, and TRIMTAB_WEIGHTS with `mlperf_tiny/ic_resnet8.safetensors`
(the reference's Keras file, its layers' names and torch's layout). It takes pixels as they are, 0..255; its softmax is
left out, which changes no prediction.
"""

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from cifar10_resnet import HELD_OUT, Images, read
from common import accuracy, find
from trimtab.tasks import Task

EPS = 1e-3  # Keras's BatchNorm

LAYERS = {
    # name here: name in the file
    "conv": "conv2d",
    "norm": "batch_normalization",
    "stages.0.conv1": "conv2d_1",
    "stages.0.norm1": "batch_normalization_1",
    "stages.0.conv2": "conv2d_2",
    "stages.0.norm2": "batch_normalization_2",
    "stages.1.conv1": "conv2d_3",
    "stages.1.norm1": "batch_normalization_3",
    "stages.1.conv2": "conv2d_4",
    "stages.1.norm2": "batch_normalization_4",
    "stages.1.shortcut": "conv2d_5",
    "stages.2.conv1": "conv2d_6",
    "stages.2.norm1": "batch_normalization_5",
    "stages.2.conv2": "conv2d_7",
    "stages.2.norm2": "batch_normalization_6",
    "stages.2.shortcut": "conv2d_8",
    "dense": "dense",
}


class Stage(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is a 1×1 convolution where the picture is halved."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        stride = width // width_in
        self.halves = stride == 2
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=0 if self.halves else 1)
        self.norm1 = nn.BatchNorm2d(width, eps=EPS)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width, eps=EPS)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride=stride) if self.halves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 1, 0, 1)) if self.halves else x  # "same" with a stride, as Keras means it
        y = F.relu(self.norm1(self.conv1(padded)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class ResNet8(nn.Module):
    """A 3×3 stem, three stages of one block each of widths 16, 32, 64, a global mean, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16, eps=EPS)
        self.stages = nn.Sequential(Stage(16, 16), Stage(16, 32), Stage(32, 64))
        self.dense = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.norm(self.conv(x))))
        return self.dense(F.avg_pool2d(x, 8).flatten(1))


class Pixels(Images):
    """Batches of pixels 0..255."""

    def scaled(self, images: Tensor) -> Tensor:
        return images.float()


def task(batch: int = 128) -> Task:
    """Accuracy on val is optimistic, as the network was trained on all 50 000 images: what counts is the drop."""
    stored = load_file(find("TRIMTAB_WEIGHTS", "mlperf_tiny/ic_resnet8.safetensors"))
    model = ResNet8()
    for here, there in LAYERS.items():
        values = {
            name.removeprefix(f"{there}."): value for name, value in stored.items() if name.startswith(f"{there}.")
        }
        model.get_submodule(here).load_state_dict(values, strict=False)  # Keras counts no batches
    images, labels = read(find("TRIMTAB_DATA", "cifar10/train.npz"))
    return Task(
        model=model.eval(),
        train=Pixels(images[:-HELD_OUT], labels[:-HELD_OUT], batch=batch, augment=True),
        val=Pixels(images[-HELD_OUT:], labels[-HELD_OUT:], batch=500),
        test=Pixels(*read(find("TRIMTAB_DATA", "cifar10/test.npz")), batch=500),
        loss=F.cross_entropy,
        metric=accuracy,
    )
