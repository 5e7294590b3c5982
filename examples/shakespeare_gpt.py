"""The next character of Shakespeare, with a small GPT.

    trimtab compress examples/shakespeare_gpt.py --drop 0.01 --size 12%

Needs what `shakespeare_lstm.py` needs.
"""

import torch
from torch import Tensor, nn

from common import accuracy, baseline
from sentiment_transformer import Layer
from shakespeare_lstm import LENGTH, loss, splits
from trimtab.tasks import Task


class CharGPT(nn.Module):
    """Embeddings of characters and places, layers that see what came before, and scores of the next character."""

    before: Tensor

    def __init__(self, characters: int, width: int = 128, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)
        self.register_buffer("before", torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.characters(x) + self.places
        for layer in self.layers:
            x = layer(x, self.before)
        return self.head(self.norm(x))


def task(width: int = 128, batch: int = 64, epochs: int = 6) -> Task:
    characters, data = splits(batch)
    model = baseline(
        f"shakespeare-gpt-{width}-{epochs}", lambda: CharGPT(characters, width), data["train"], loss, epochs=epochs
    )
    return Task(model=model, **data, loss=loss, metric=accuracy)
