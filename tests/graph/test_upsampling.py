"""Transposed convolutions, resampling and shuffles, and a U-Net of them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graph_proofs import captured, prove, widths
from torch import Tensor, nn


class Grown(nn.Module):
    """[N, 3, *space] → 8 channels → `body` → a 1-wide convolution to 4 channels."""

    def __init__(self, body: Callable[[Tensor], Tensor], dims: int = 2) -> None:
        super().__init__()
        self.body, conv = body, (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.first = conv(3, 8, 3, padding=1)
        self.out = conv(body(self.first(torch.zeros(1, 3, *[4] * dims))).shape[1], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.body(torch.tanh(self.first(x)))))


A = {"first": 8}
CASES: dict[str, tuple[Callable[[Tensor], Tensor], int, dict[str, int]]] = {
    "transposed1d": (nn.ConvTranspose1d(8, 6, 3, stride=2), 1, A | {"body": 6}),
    "transposed2d": (nn.ConvTranspose2d(8, 6, 2, 2), 2, A | {"body": 6}),
    "transposed2d_padded": (nn.ConvTranspose2d(8, 5, 4, 2, 1, output_padding=1, bias=False), 2, A | {"body": 5}),
    "transposed3d": (nn.ConvTranspose3d(8, 3, 2), 3, A | {"body": 3}),
    "transposed_grouped": (nn.ConvTranspose2d(8, 6, 2, 2, groups=2), 2, {"first/0": 2, "first/1": 4, "body": 3}),
    "transposed_depthwise": (nn.ConvTranspose2d(8, 8, 2, 2, groups=8, bias=False), 2, A),
    "nearest": (nn.Upsample(scale_factor=2), 2, A),
    "nearest_1d": (nn.Upsample(scale_factor=2), 1, A),
    "nearest_exact": (nn.Upsample(scale_factor=2, mode="nearest-exact"), 2, A),
    "bilinear": (nn.Upsample(size=(7, 5), mode="bilinear", align_corners=True), 2, A),
    "bicubic": (nn.Upsample(scale_factor=1.5, mode="bicubic"), 2, A),
    "trilinear": (nn.Upsample(scale_factor=2, mode="trilinear"), 3, A),
    "pixel_shuffle": (nn.PixelShuffle(2), 2, {"first/0": 2}),
    "pixel_unshuffle": (nn.PixelUnshuffle(2), 2, A),
    "channel_shuffle": (nn.ChannelShuffle(2), 2, {"first/0": 2, "first/1": 4}),
    "repeat": (lambda a: a.repeat(1, 3, 1, 2), 2, A),
    "repeat_gate": (lambda a: a * a.mean(1, keepdim=True).repeat(1, 8, 1, 1), 2, A),
    "repeat_interleave": (lambda a: a.repeat_interleave(2, dim=1), 2, A),
    "roll_space": (lambda a: a.roll((1, 2), (2, 3)), 2, A),
    "flip_space": (lambda a: a.flip(-1, 2), 2, A),
    "index_space": (lambda a: a[:, :, torch.tensor([0, 2, 1])], 2, A),
    "index_space_twice": (lambda a: a[:, :, torch.tensor([0, 2]), torch.tensor([3, 1])].unsqueeze(-1), 2, A),
    "index_select": (lambda a: a.index_select(3, torch.tensor([0, 3])), 2, A),
    "sort_space": (lambda a: a.sort(dim=2)[0], 2, A),
    "topk_space": (lambda a: a.topk(2, -1)[0], 2, A),
    "tril_space": (lambda a: a.tril(), 2, A),
    "glu": (lambda a: F.glu(a, 1), 2, {"first[0:4]": 4}),
    "strided": (lambda a: a[:, 1::2] + a[:, ::2], 2, {"first/0": 4}),
    "movedim": (lambda a: a.movedim(1, -1).movedim((-1, 1), (1, -1)), 2, A),
    "swapaxes": (lambda a: a.swapaxes(1, 2).swapaxes(2, 1), 2, A),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_pass(name: str) -> None:
    body, dims, expected = CASES[name]
    net = captured(Grown(body, dims), torch.randn(3, 3, *[4] * dims))
    assert widths(net) == widths(net, exact=True) == expected, net.frozen
    prove(net)


FROZEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "roll": (lambda a: a.roll(1, 1), "change places"),
    "roll_flat": (lambda a: a.roll(1), "rolled"),
    "flip": (lambda a: a.flip(1), "change places"),
    "index": (lambda a: a[:, torch.tensor([1, 5, 2])], "picked by number"),
    "index_select": (lambda a: a.index_select(1, torch.tensor([0, 3])), "picked by number"),
    "sort": (lambda a: a.sort(dim=1)[0], "ordered by value"),
    "topk": (lambda a: a.topk(8, dim=1)[0], "8 of its positions are chosen"),
    "gather": (lambda a: a.gather(1, a.sort(dim=2)[1]), "picked by number"),
    "tril": (lambda a: a.permute(0, 2, 3, 1).tril().permute(0, 3, 1, 2), "triangle"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_freezes_says_why(name: str) -> None:
    body, reason = FROZEN[name]
    net = captured(Grown(body), torch.randn(3, 3, 4, 4))
    assert not net.groups
    [first] = [frozen for frozen in net.frozen if frozen.name == "first"]
    assert reason in first.reason
    assert first.source.startswith("test_upsampling.py:")


class UNet(nn.Module):
    """Two levels; skips are concatenated with what transposed convolutions bring up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = (self.double(i, o) for i, o in ((3, 6), (6, 8), (8, 12)))
        self.up2, self.up1 = nn.ConvTranspose2d(12, 8, 2, 2), nn.ConvTranspose2d(8, 6, 2, 2)
        self.merge2, self.merge1 = self.double(16, 8), self.double(12, 6)
        self.head = nn.Conv2d(6, 2, 1)

    @staticmethod
    def double(inputs: int, width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        b = self.merge2(torch.cat([b, self.up2(c)], 1))
        return self.head(self.merge1(torch.cat([a, self.up1(b)], 1)))


def test_unet() -> None:
    net = captured(UNet(), torch.randn(3, 3, 8, 8))
    blocks = {"down1": 6, "down2": 8, "bottom": 12, "merge2": 8, "merge1": 6}
    expected = {f"{name}.{i}": width for name, width in blocks.items() for i in (0, 3)}
    assert widths(net) == widths(net, exact=True) == expected | {"up2": 8, "up1": 6}
    assert {m.parameter for m in net.group("up2").members} == {"up2.weight", "up2.bias", "merge2.0.weight"}
    prove(net)


def test_a_generator_and_its_latent_input() -> None:
    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up1 = nn.ConvTranspose2d(10, 16, 4, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.up2, self.up3 = nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)

        def forward(self, z: Tensor) -> Tensor:
            x = F.relu(self.norm(self.up1(z[:, :, None, None])))
            return torch.tanh(self.up3(F.leaky_relu(self.up2(x), 0.2)))

    net = captured(Generator(), torch.randn(3, 10))
    assert widths(net, exact=True) == {"up1": 16, "up2": 8}
    prove(net)
