"""The next character of Shakespeare, with an LSTM.

    trimtab compress examples/shakespeare_lstm.py --drop 0.01 --size 12%

Needs `tinyshakespeare/input.txt` in TRIMTAB_DATA. The metric is the share of characters guessed right; the last tenth
of the text is the test, the tenth before it validation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Batches, accuracy, baseline, find
from trimtab.tasks import Task

LENGTH = 96


class CharLSTM(nn.Module):
    """Embeddings, an LSTM, and scores of the next character at every place."""

    def __init__(self, characters: int, width: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width // 4)
        self.lstm = nn.LSTM(width // 4, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(x))
        return self.head(states)


def loss(outputs: Tensor, following: Tensor) -> Tensor:
    """Cross-entropy at every place."""
    return F.cross_entropy(outputs.flatten(0, 1), following.flatten())


def splits(batch: int) -> tuple[int, dict[str, Batches]]:
    """How many characters there are, and pieces of text [rows, 96] with what follows each character."""
    text = find("TRIMTAB_DATA", "tinyshakespeare/input.txt").read_text()
    known = {character: number for number, character in enumerate(sorted(set(text)))}
    numbers = torch.tensor([known[character] for character in text])
    tenth = len(numbers) // 10
    parts = {"train": numbers[: -2 * tenth], "val": numbers[-2 * tenth : -tenth], "test": numbers[-tenth:]}
    found = {}
    for name, part in parts.items():
        rows = part[: (len(part) - 1) // LENGTH * LENGTH].view(-1, LENGTH)
        following = part[1 : len(rows) * LENGTH + 1].view(-1, LENGTH)
        found[name] = Batches(rows, following, batch=batch if name == "train" else 100, shuffle=name == "train")
    return len(known), found


def task(width: int = 256, batch: int = 64, epochs: int = 8) -> Task:
    characters, data = splits(batch)
    model = baseline(
        f"shakespeare-lstm-{width}-{epochs}", lambda: CharLSTM(characters, width), data["train"], loss, epochs=epochs
    )
    return Task(model=model, **data, loss=loss, metric=accuracy)
