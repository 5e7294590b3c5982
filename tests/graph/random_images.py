"""Moves of random networks on images [N, C, H, W]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from random_moves import ACTIVATIONS, Build, alike, divisor, image
from torch import Tensor, nn


@image
def conv(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    return net.layer(name, lambda: nn.Conv2d(x.shape[1], (8, 12, 6)[pick % 3], 1 + 2 * (pick % 2), padding=pick % 2))(x)


@image
def grouped(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    c = x.shape[1]
    g = divisor(c, 4, 3, 2)
    if pick % 3 == 0:
        return net.layer(name, lambda: nn.Conv2d(c, c * (1 + pick % 2), 3, padding=1, groups=c))(x)
    return net.layer(name, lambda: nn.Conv2d(c, g * (2 + pick % 2), 3, padding=1, groups=g))(x)


@image
def transposed(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    c = x.shape[1]
    if x.shape[2] > 6 or pick % 2:
        g = divisor(c, 2 + pick % 3)
        return net.layer(name, lambda: nn.ConvTranspose2d(c, 2 * g, 3, padding=1, groups=g))(x)
    return net.layer(name, lambda: nn.ConvTranspose2d(c, 6, 2, stride=2))(x)


@image
def norm(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    c = x.shape[1]
    makers: list[Callable[[], nn.Module]] = [
        lambda: nn.BatchNorm2d(c),
        lambda: nn.BatchNorm2d(c, affine=False),
        lambda: nn.GroupNorm(divisor(c, 4, 3, 2), c),
        lambda: nn.InstanceNorm2d(c, affine=pick % 2 == 0),
        lambda: nn.LayerNorm(c),
    ]
    layer = net.layer(name, makers[pick % 5])
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if pick % 5 == 4 else layer(x)


@image
def act(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    return torch.tanh(ACTIVATIONS[pick % len(ACTIVATIONS)](torch.tanh(x) if pick % 2 else x.clamp(-3, 3)))


@image
def scale(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    c = x.shape[1]
    match pick % 4:
        case 0:
            return net.layer(name, lambda: nn.PReLU(c))(x) * 0.5 + 1
        case 1:
            return x * net.tensor(name, c, 1, 1, buffer=True)
        case 2:
            return x * net.tensor(name, c, 1, 1) + net.tensor(name + "b", 1, c, 1, 1)
    return net.layer(name, lambda: nn.PReLU())(x) - net.tensor(name + "b", c, 1, 1, buffer=True)


@image
def residual(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    other = alike(net, x, pick)
    y = net.layer(name, lambda: nn.Conv2d(x.shape[1], other.shape[1], 1))(x)
    return y + other if pick % 2 else other - y


@image
def concat(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    other = alike(net, x, pick)
    parts = [x, other] if pick % 2 else [other, x, other]
    return torch.cat(parts, 1) if sum(p.shape[1] for p in parts) < 60 else x


@image
def split(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """Chunks or unequal runs, of which one goes on, or all in another order."""
    c = x.shape[1]
    if c < 4:
        return x
    sizes = [1 + pick % 3, c - 1 - pick % 3]
    parts = [*(torch.chunk(x, 2 + pick % 2, 1) if pick % 3 else torch.split(x, sizes, 1))]
    if pick % 4 == 0:
        return torch.cat([torch.relu(parts[-1]), *parts[:-1]], 1)
    return parts[pick % len(parts)] * 1.0


@image
def branches(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """A part is computed on, the rest passed by; then their channels are shuffled."""
    c = x.shape[1]
    if c % 2:
        return x
    a, b = x.chunk(2, 1)
    y = torch.cat([a, F.relu(net.layer(name, lambda: nn.Conv2d(c // 2, c // 2, 3, padding=1))(b))], 1)
    h, w = x.shape[2:]
    return y.view(x.shape[0], 2, c // 2, h, w).transpose(1, 2).reshape(x.shape[0], c, h, w)


@image
def slices(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    c = x.shape[1]
    if c < 4:
        return x
    match pick % 5:
        case 0:
            return x[:, pick % (c - 1) :]
        case 1:
            return x[:, ::2]
        case 2:
            return x[:, : c - 1]
        case 3:
            return x.narrow(1, 1, c - 2)
    return x[:, -3:]


@image
def pad(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, pick % 3, pick % 2), value=float(pick % 2))


@image
def shuffle(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    g = divisor(x.shape[1], 3 if pick % 2 else 2)
    return nn.ChannelShuffle(g)(x) if pick % 3 else x.unflatten(1, (g, -1)).swapaxes(1, 2).flatten(1, 2)


@image
def gate(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    c = x.shape[1]
    pooled = F.adaptive_avg_pool2d(x, 1) if pick % 2 else x.mean((2, 3), keepdim=True)
    if pick % 3 == 0:
        return x * torch.sigmoid(net.layer(name, lambda: nn.Linear(c, c))(pooled.flatten(1)))[:, :, None, None]
    y = F.relu(net.layer(name + "a", lambda: nn.Conv2d(c, 3, 1))(pooled))
    return x * torch.sigmoid(net.layer(name, lambda: nn.Conv2d(3, c, 1))(y))


@image
def pool(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1) if pick % 2 else F.avg_pool2d(x, 3, 1, 1)


@image
def u_net(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """Down, a convolution, up, and a concatenation with what was before."""
    c = x.shape[1]
    if c > 40:
        return x
    y = F.relu(net.layer(name, lambda: nn.Conv2d(c, 8, 3, padding=1))(F.max_pool2d(x, 2)))
    mode = ("nearest", "bilinear")[pick % 2]
    return torch.cat([F.interpolate(y, size=x.shape[2:], mode=mode), x], 1)


@image
def pixels(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    c = x.shape[1]
    if x.shape[2] > 6:
        return F.pixel_unshuffle(x, 2) if c < 12 else F.avg_pool2d(x, 2)
    return F.pixel_shuffle(net.layer(name, lambda: nn.Conv2d(c, 4 * (2 + pick % 3), 1))(x), 2)


@image
def shared(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """One layer used twice, or its weight used by another operator."""
    layer = net.layer(name, lambda: nn.Conv2d(x.shape[1], x.shape[1], 1))
    y = F.relu(layer(x))
    return layer(y) if pick % 2 else F.conv2d(y, layer.weight.transpose(0, 1) if pick % 3 else layer.weight)


@image
def more_input(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    h, w = x.shape[2:]
    y = net.layer(name, lambda: nn.Conv2d(3, x.shape[1], 1))(net.images[-1])
    return x + F.interpolate(y, size=(h, w))


@image
def over_channels(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """Statistics over channels; sums of what need not vanish make a group inexact."""
    x = torch.tanh(x)
    match pick % 5:
        case 0:
            return x * torch.sigmoid(x.mean(1, keepdim=True))
        case 1:
            return x * x.sum(1, keepdim=True) * 0.1
        case 2:
            return x * x[:, pick % x.shape[1]].unsqueeze(1)
        case 3:
            return x / (x.square().mean(1, keepdim=True) + 0.1).sqrt()
    return x + x.amax(1, keepdim=True)


@image
def repeated(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    c = x.shape[1]
    if c > 30:
        return x + x[:, :1].expand(-1, c, -1, -1)
    match pick % 4:
        case 0:
            return torch.stack([x, torch.tanh(x)], 2).flatten(1, 2)
        case 1:
            return x.repeat(1, 2, 1, 1)
        case 2:
            return x.repeat_interleave(2, 1)
    return torch.cat([x.flip(1), x.roll(1, 1)], 1)


@image
def in_place(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """Writes into a stream, or into a part of one."""
    y = net.layer(name, lambda: nn.Conv2d(x.shape[1], x.shape[1], 1))(x)
    match pick % 4:
        case 0:
            return y.mul_(x).add_(0.5)
        case 1:
            y[:, 1:3] += 1.5
            return y
        case 2:
            y[:, : x.shape[1] // 2] = torch.tanh(x[:, : x.shape[1] // 2])
            return y
    net.past.append(y)  # an earlier stream that changes after it was seen
    return y.relu_()


@image
def maxout(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    n, c, h, w = x.shape
    g = divisor(c, 2, 3)
    parts = x.view(n, c // g, g, h, w) if pick % 2 else x.view(n, g, c // g, h, w).transpose(1, 2)
    return parts.amax(2) if pick % 3 else parts.sum(2)


@image
def windows(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """A layer on windows of 3 × 3 positions, put back."""
    n, c, h, w = x.shape
    y = x.view(n, c, h // 3, 3, w // 3, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, c)
    y = net.layer(name, lambda: nn.Linear(c, c))(y)
    return y.view(n, h // 3, w // 3, 3, 3, c).permute(0, 5, 1, 3, 2, 4).contiguous().view(n, c, h, w)


@image
def images_einsum(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    c = x.shape[1]
    weight = net.tensor(name, 7, c)
    return torch.einsum("nchw,oc->nohw", x, weight) if pick % 2 else torch.einsum("oc,nchw->nohw", weight, x)
