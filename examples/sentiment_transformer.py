"""Sentiment (SST-2) with a small transformer encoder.

    trimtab compress examples/sentiment_transformer.py --drop 0.01 --size 12%

Needs `sst2/train.tsv.gz` and `sst2/test.tsv.gz` in TRIMTAB_DATA.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Batches, accuracy, baseline
from news_lstm import encoded, read, vocabulary
from trimtab.tasks import Task

WORDS, LENGTH, HELD_OUT = 8000, 32, 2000


class Layer(nn.Module):
    """Self-attention and two linear layers, each normalized before and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        y = self.norm1(x)
        query, key, value = (
            project(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class SentimentTransformer(nn.Module):
    """Embeddings of words and places, layers, the mean over the words, a linear head."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)
        self.dropout = nn.Dropout(0.3)

    def forward(self, words: Tensor) -> Tensor:
        there = words != 0
        x = self.dropout(self.words(words) + self.places)
        for layer in self.layers:
            x = layer(x, there[:, None, None])
        weight = there[:, :, None].to(x.dtype)
        return self.head((self.norm(x) * weight).sum(1) / weight.sum(1).clamp(min=1))


def task(width: int = 64, batch: int = 128, epochs: int = 3) -> Task:
    texts, labels = read("sst2/train.tsv.gz")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    texts, labels = [texts[row] for row in order], labels[order]
    known = vocabulary(texts[:-HELD_OUT], WORDS)
    x = encoded(texts, known, LENGTH)
    test, test_labels = read("sst2/test.tsv.gz")
    train = Batches(x[:-HELD_OUT], labels[:-HELD_OUT], batch=batch, shuffle=True)
    return Task(
        model=baseline(
            f"sentiment-transformer-{width}-{epochs}",
            lambda: SentimentTransformer(width),
            train,
            F.cross_entropy,
            epochs=epochs,
            rate=1e-3,
        ),
        train=train,
        val=Batches(x[-HELD_OUT:], labels[-HELD_OUT:], batch=500),
        test=Batches(encoded(test, known, LENGTH), test_labels, batch=500),
        loss=F.cross_entropy,
        metric=accuracy,
    )
