"""Five small networks on real data: speech, two kinds of text, slices of cells, ratings of films."""

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import trimtab as tt
from pruning.digits import accuracy
from pruning.small import Transformer
from quantizing.small import Convolution
from trimtab.tasks.task import Inputs

BINS, STEPS = 32, 32  # of a clip: bands of frequency, frames of 256 samples
BUCKETS = 4096  # of words, by their hash; 0 pads


class Listener(nn.Module):
    """An LSTM over the frames of a clip, most of which end early: the mean of its states is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(BINS, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.lstm(frames)[0].mean(1))


class Critic(nn.Module):
    """A GRU over the words of a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru, self.head = nn.Embedding(BUCKETS, 32), nn.GRU(32, 48, batch_first=True), nn.Linear(48, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.gru(self.table(words))[0][:, -1])


class Editor(Transformer):
    """Five pre-norm layers of four heads over sixteen words."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(width)
        del self.patches
        self.table, self.head = nn.Embedding(BUCKETS, width), nn.Linear(width, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.table(words) + self.places)).mean(1))


class UNet(nn.Module):
    """Two levels down by max pools, two up by transposed convolutions, with what was before each pool beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle, self.coarse = Convolution(1, 12), Convolution(12, 24), Convolution(24, 48)
        self.up_middle, self.up_fine = nn.ConvTranspose2d(48, 24, 2, stride=2), nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.join_middle, self.join_fine = Convolution(48, 24), Convolution(24, 12)
        self.out = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = self.coarse(F.max_pool2d(middle, 2))
        middle = self.join_middle(torch.cat([middle, self.up_middle(coarse)], 1))
        return self.out(self.join_fine(torch.cat([fine, self.up_fine(middle)], 1)))


class Recommender(nn.Module):
    """Tables of users and films, and two layers over both: is the rating 4 stars or more?"""

    def __init__(self, users: int, films: int) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(users, 24), nn.Embedding(films, 24)
        self.hidden, self.out = nn.Linear(48, 32), nn.Linear(32, 2)

    def forward(self, user: Tensor, film: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(torch.cat([self.users(user), self.films(film)], 1))))


def speech() -> tt.Task:
    """Spoken digits: the logarithm of short spectra."""

    def read(split: str) -> tuple[Tensor, Tensor]:
        with np.load(_file(f"fsdd/{split}.npz"), allow_pickle=False) as arrays:
            audio, labels = torch.from_numpy(arrays["audio"]), torch.from_numpy(arrays["labels"].astype("int64"))
        frames = audio[:, : STEPS * 256].float().div(32768).view(-1, STEPS, 256) * torch.hann_window(256)
        power = torch.fft.rfft(frames).abs()[..., 1:].unflatten(-1, (BINS, -1)).mean(-1)
        return (power + 1e-3).log().add(4).div(2), labels

    return _task(Listener(), read("train"), read("test"), batch=32)


def reviews() -> tt.Task:
    """SST-2: is a sentence praise? Of train the first 16 000 phrases."""
    train, test = (_text(f"sst2/{split}.tsv.gz", words=24) for split in ("train", "test"))
    return _task(Critic(), (train[0][:16_000], train[1][:16_000]), test, batch=64)


def news() -> tt.Task:
    """AG News: which of four topics?"""
    return _task(Editor(), *(_text(f"ag_news/{split}.tsv.gz", words=16) for split in ("train10k", "test")), batch=64)


def cells() -> tt.Task:
    """ISBI 2012: is a pixel membrane or cell? Tiles of 64×64; of train every second."""

    def read(split: str) -> tuple[Tensor, Tensor]:
        with np.load(_file(f"em_membrane/{split}.npz"), allow_pickle=False) as arrays:
            images, masks = (torch.from_numpy(arrays[name]) for name in ("images", "masks"))
        tiles = (part.unfold(1, 64, 64).unfold(2, 64, 64).reshape(-1, 64, 64) for part in (images, masks))
        pictures, wanted = tiles
        return pictures[:, None].float() / 128 - 1, wanted.long()

    pictures, masks = read("train")
    return _task(UNet(), (pictures[::2], masks[::2]), read("test"), batch=16)


def ratings() -> tt.Task:
    """MovieLens: a film that nobody in train has rated is number 0."""
    with np.load(_file("movielens_small/train.npz"), allow_pickle=False) as arrays:
        known = np.unique(arrays["movie"])
        users = int(arrays["user"].max()) + 1

    def read(split: str) -> tuple[tuple[Tensor, Tensor], Tensor]:
        with np.load(_file(f"movielens_small/{split}.npz"), allow_pickle=False) as arrays:
            at = np.searchsorted(known, arrays["movie"]).clip(max=len(known) - 1)
            films = np.where(known[at] == arrays["movie"], at + 1, 0)
            user, film, stars = (torch.from_numpy(part) for part in (arrays["user"], films, arrays["rating"]))
        return (user.long(), film.long()), (stars >= 4).long()

    return _task(Recommender(users, len(known) + 1), read("train"), read("test"), batch=256)


TASKS: dict[str, Callable[[], tt.Task]] = {
    "LSTM": speech,
    "GRU": reviews,
    "transformer": news,
    "U-Net": cells,
    "recommender": ratings,
}


def _task(model: nn.Module, train: tuple[Inputs, Tensor], test: tuple[Inputs, Tensor], *, batch: int) -> tt.Task:
    """A tenth of train, shuffled, is val."""
    order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(0))
    held_out = len(order) // 10
    seen, val = (_batches(*train, rows, batch) for rows in (order[held_out:], order[:held_out]))
    last = _batches(*test, torch.arange(len(test[1])), batch)
    return tt.Task(model=model, train=seen, val=val, test=last, loss=F.cross_entropy, metric=accuracy)


def _batches(inputs: Inputs, labels: Tensor, order: Tensor, batch: int) -> list[tuple[Inputs, Tensor]]:
    parts = order.split(batch)
    if isinstance(inputs, tuple):
        return [(tuple(column[rows] for column in inputs), labels[rows]) for rows in parts]
    assert isinstance(inputs, Tensor)
    return [(inputs[rows], labels[rows]) for rows in parts]


def _text(name: str, *, words: int) -> tuple[Tensor, Tensor]:
    """The first words of every line by their buckets, padded on the left, and the labels."""
    with gzip.open(_file(name), "rt", encoding="utf-8") as lines:
        pairs = [line.rstrip("\n").split("\t") for line in lines][1:]
    table = torch.zeros(len(pairs), words, dtype=torch.int64)
    for row, (_, text) in enumerate(pairs):
        found = [zlib.crc32(word.encode()) % (BUCKETS - 1) + 1 for word in text.lower().split()[:words]]
        table[row, words - len(found) :] = torch.tensor(found, dtype=torch.int64)
    return table, torch.tensor([int(label) for label, _ in pairs])


def _file(name: str) -> Path:
    return Path(os.environ["TRIMTAB_DATA"], name)
