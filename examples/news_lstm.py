"""News topics (AG News) with embeddings and an LSTM: most of the file is embeddings.

    trimtab compress examples/news_lstm.py --drop 0.01 --size 12%

Needs `ag_news/train10k.tsv.gz` and `ag_news/test.tsv.gz` in TRIMTAB_DATA.
"""

import gzip
import re
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Batches, accuracy, baseline, find
from trimtab.tasks import Task

WORDS, LENGTH, HELD_OUT = 8000, 48, 1000
UNKNOWN = 1  # 0 is what follows a short text


class TopicLSTM(nn.Module):
    """Embeddings, an LSTM, the largest of its states over time, a linear head."""

    def __init__(self, classes: int = 4, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.dropout = nn.Dropout(0.4)
        self.lstm = nn.LSTM(width, 2 * width, batch_first=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.lstm(self.dropout(self.embedding(words)))
        return self.head(self.dropout(states.amax(1)))


def read(name: str) -> tuple[list[str], Tensor]:
    """Texts and labels of a file with a label, a tab, and a text on each line."""
    with gzip.open(find("TRIMTAB_DATA", name), "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t", 1) for line in file][1:]
    return [text for _, text in rows], torch.tensor([int(label) for label, _ in rows])


def split_words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", text.lower())


def vocabulary(texts: list[str], words: int = WORDS) -> dict[str, int]:
    """The most frequent words, by frequency."""
    counts = Counter(word for text in texts for word in split_words(text))
    return {word: number + 2 for number, (word, _) in enumerate(counts.most_common(words - 2))}


def encoded(texts: list[str], known: dict[str, int], length: int = LENGTH) -> Tensor:
    """The numbers of the first words of each text. [rows, length]"""
    found = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        numbers = [known.get(word, UNKNOWN) for word in split_words(text)[:length]]
        found[row, : len(numbers)] = torch.tensor(numbers)
    return found


def task(width: int = 64, batch: int = 64, epochs: int = 6) -> Task:
    texts, labels = read("ag_news/train10k.tsv.gz")
    known = vocabulary(texts[:-HELD_OUT])
    x = encoded(texts, known)
    test, test_labels = read("ag_news/test.tsv.gz")
    train = Batches(x[:-HELD_OUT], labels[:-HELD_OUT], batch=batch, shuffle=True)
    return Task(
        model=baseline(
            f"news-lstm-{width}-{epochs}", lambda: TopicLSTM(4, width), train, F.cross_entropy, epochs=epochs
        ),
        train=train,
        val=Batches(x[-HELD_OUT:], labels[-HELD_OUT:], batch=500),
        test=Batches(encoded(test, known), test_labels, batch=500),
        loss=F.cross_entropy,
        metric=accuracy,
    )
