"""Spoken digits (Free Spoken Digit Dataset) with a depthwise-separable CNN on log-mel spectrograms.

    trimtab compress examples/speech_cnn.py --drop 0.01 --size 12%

Needs `fsdd/train.npz` and `fsdd/test.npz` in TRIMTAB_DATA. Of the training recordings, numbers 5 to 9 of each speaker
and digit are the validation split.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Batches, accuracy, arrays, baseline
from trimtab.tasks import Task

RATE, WINDOW, HOP, MELS, FRAMES = 8000, 256, 128, 40, 64
HELD_OUT = range(5, 10)


class Separable(nn.Module):
    """A 3×3 convolution of each channel by itself, then a 1×1 convolution over the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.pointwise(F.relu(self.norm1(self.depthwise(x))))))


class SpeechNet(nn.Module):
    """A 4×10 stem over time and mels, four separable blocks, a global mean, a linear head (Zhang et al. 2017)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, (10, 4), stride=2, padding=(4, 1), bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Separable(width) for _ in range(4)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


def mel_filters() -> Tensor:
    """Triangles over the frequencies of a spectrum, evenly spaced in mels. [MELS, WINDOW // 2 + 1]"""
    top = 2595 * torch.log10(torch.tensor(1 + RATE / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), MELS + 2) / 2595) - 1)
    frequencies = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp(min=0)


def log_mel(audio: Tensor) -> Tensor:
    """Spectrograms [rows, 1, FRAMES, MELS] of about a second of sound [rows, samples], each with mean 0."""
    sound = F.pad(audio, (0, max(0, FRAMES * HOP - audio.shape[1])))[:, : FRAMES * HOP - 1]
    spectrum = torch.stft(sound, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True).abs().square()
    energy = (mel_filters() @ spectrum + 1e-6).log()
    energy = (energy - energy.mean((1, 2), keepdim=True)) / 4
    return energy.transpose(1, 2)[:, None].contiguous()


def read(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Spectrograms, labels, and the number of each recording."""
    stored = arrays(f"fsdd/{split}.npz")
    audio = torch.from_numpy(stored["audio"]).float() / 2**15
    return log_mel(audio), torch.from_numpy(stored["labels"]).long(), torch.from_numpy(stored["index"]).long()


def blurred(x: Tensor) -> Tensor:
    """Moved in time by at most four frames, with eight frames and four mels silenced (Park et al. 2019)."""
    x = x.roll(int(torch.randint(-4, 5, ())), dims=2)
    frame, mel = int(torch.randint(FRAMES - 8, ())), int(torch.randint(MELS - 4, ()))
    x[:, :, frame : frame + 8] = 0
    x[:, :, :, mel : mel + 4] = 0
    return x


def splits(batch: int) -> dict[str, Batches]:
    """The three splits."""
    x, labels, index = read("train")
    held = torch.isin(index, torch.tensor(HELD_OUT))
    test, test_labels, _ = read("test")
    return {
        "train": Batches(x[~held], labels[~held], batch=batch, shuffle=True, change=blurred),
        "val": Batches(x[held], labels[held], batch=300),
        "test": Batches(test, test_labels, batch=300),
    }


def task(width: int = 64, batch: int = 64, epochs: int = 30) -> Task:
    data = splits(batch)
    model = baseline(
        f"speech-cnn-{width}-{epochs}", lambda: SpeechNet(width), data["train"], F.cross_entropy, epochs=epochs
    )
    return Task(model=model, **data, loss=F.cross_entropy, metric=accuracy)
