"""Spoken digits with a two-layer GRU over log-mel frames.

    trimtab compress examples/speech_gru.py --drop 0.01 --size 12%

Needs what `speech_cnn.py` needs.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from common import accuracy, baseline
from speech_cnn import MELS, splits
from trimtab.tasks import Task


class SpeechGRU(nn.Module):
    """Two frames a step, a two-layer GRU, the mean over time, a linear head."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.gru = nn.GRU(2 * MELS, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(1).unflatten(1, (-1, 2 * MELS))
        states, _ = self.gru(frames)
        return self.head(states.mean(1))


def task(width: int = 128, batch: int = 64, epochs: int = 30) -> Task:
    data = splits(batch)
    model = baseline(
        f"speech-gru-{width}-{epochs}", lambda: SpeechGRU(width), data["train"], F.cross_entropy, epochs=epochs
    )
    return Task(model=model, **data, loss=F.cross_entropy, metric=accuracy)
