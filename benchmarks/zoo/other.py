"""Recurrent nets, GANs, a U-Net, an autoencoder, recommenders and a net with two towers, as users write them."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 3


class Recurrent(nn.Module):
    """Tokens through two layers of an LSTM or GRU, in both directions, to a class."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 24)
        self.recurrent = getattr(nn, kind)(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(64, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.recurrent(self.embedding(tokens))
        return self.head(out.mean(1))


def recurrent(kind: str) -> tuple[nn.Module, Any]:
    return Recurrent(kind), torch.randint(50, (ROWS, 11))


def dcgan_generator() -> tuple[nn.Module, Any]:
    def up(i: int, o: int, stride: int, padding: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(i, o, 4, stride, padding, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]

    layers = [*up(64, 128, 1, 0), *up(128, 64, 2, 1), *up(64, 32, 2, 1), *up(32, 16, 2, 1)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()), torch.randn(ROWS, 64, 1, 1)


def dcgan_discriminator() -> tuple[nn.Module, Any]:
    def down(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2, True)]

    first = [nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    layers = [*first, *down(16, 32), *down(32, 64), *down(64, 128), nn.Conv2d(128, 1, 4), nn.Flatten(), nn.Sigmoid()]
    return nn.Sequential(*layers), torch.randn(ROWS, 3, 64, 64)


class Double(nn.Sequential):
    def __init__(self, i: int, o: int) -> None:
        layers = [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(True)]
        super().__init__(*layers, nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(True))


class UNet(nn.Module):
    """Three levels with skips that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Double(1, 16), Double(16, 32), Double(32, 64)])
        self.rise = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.up = nn.ModuleList([Double(64, 32), Double(32, 16)])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in self.down:
            x = level(x if not skips else F.max_pool2d(x, 2))
            skips.append(x)
        for rise, up, skip in zip(self.rise, self.up, skips[-2::-1], strict=True):
            x = up(torch.cat([skip, rise(x)], 1))
        return self.head(x)


def unet() -> tuple[nn.Module, Any]:
    return UNet(), torch.randn(ROWS, 1, 32, 32)


def autoencoder() -> tuple[nn.Module, Any]:
    encoder = [nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 8)]
    decoder = [nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 784)]
    return nn.Sequential(*encoder, *decoder, nn.Unflatten(1, (1, 28, 28)), nn.Sigmoid()), torch.rand(ROWS, 1, 28, 28)


class CollaborativeFilter(nn.Module):
    """Neural collaborative filtering: a product of embeddings beside an MLP of others (He et al., WWW 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(60, 16), nn.Embedding(90, 16)
        self.mlp_users, self.mlp_items = nn.Embedding(60, 24), nn.Embedding(90, 24)
        self.mlp = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.head = nn.Linear(32, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        product = self.users(user) * self.items(item)
        mixed = self.mlp(torch.cat([self.mlp_users(user), self.mlp_items(item)], -1))
        return torch.sigmoid(self.head(torch.cat([product, mixed], -1))).squeeze(-1)


def collaborative_filter() -> tuple[nn.Module, Any]:
    return CollaborativeFilter(), {"user": torch.randint(60, (ROWS,)), "item": torch.randint(90, (ROWS,))}


class TwoTowers(nn.Module):
    """An image and a spectrogram, each through its own tower, fused by a product and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.audio = nn.Sequential(nn.Conv1d(20, 24, 5), nn.ReLU(), nn.Conv1d(24, 32, 5), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(96, 40), nn.ReLU(), nn.Linear(40, 7))

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        seen, heard = self.image(image).mean((2, 3)), self.audio(audio).amax(2)
        return self.head(torch.cat([seen, heard, seen * heard], 1))


def two_towers() -> tuple[nn.Module, Any]:
    return TwoTowers(), {"image": torch.randn(ROWS, 3, 32, 32), "audio": torch.randn(ROWS, 20, 50)}


NETWORKS = {
    "lstm": partial(recurrent, "LSTM"),
    "gru": partial(recurrent, "GRU"),
    "rnn": partial(recurrent, "RNN"),
    "dcgan_generator": dcgan_generator,
    "dcgan_discriminator": dcgan_discriminator,
    "unet": unet,
    "autoencoder": autoencoder,
    "collaborative_filter": collaborative_filter,
    "two_towers": two_towers,
}
