"""Networks with residual branches, each of which can be left out by hand: what is `gone` adds nothing."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """In-place sums and activations, as torchvision writes them."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != 2 * width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 2 * width, 1, stride), nn.BatchNorm2d(2 * width))
        self.gone = False

    def forward(self, x: Tensor) -> Tensor:
        if self.gone:
            return self.relu(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        identity = x if self.downsample is None else self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Bottlenecks, the first of each stage with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(Bottleneck(4, 4), Bottleneck(8, 4), Bottleneck(8, 4))
        self.layer2 = nn.Sequential(Bottleneck(8, 6, 2), Bottleneck(12, 6))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer2(self.layer1(F.relu(self.stem(x)))).mean((2, 3)))


class Mlp(nn.Sequential):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(rows, length, width))


class Block(nn.Module):
    """Attention and MLP in one of three arrangements; `gone` names those that are left out."""

    def __init__(self, style: str, width: int = 8) -> None:
        super().__init__()
        self.style = style
        self.attention, self.mlp = Attention(width, 2), Mlp(width, 12)
        self.norm = nn.LayerNorm(width)
        if style != "parallel":
            self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.2)
        self.gone: frozenset[str] = frozenset()

    def forward(self, x: Tensor) -> Tensor:
        match self.style:
            case "pre":
                x = x + self.dropout(self.attention(self.norm(x))) if "attention" not in self.gone else x
                return self.mlp(self.norm2(x)) + x if "mlp" not in self.gone else x
            case "post":
                x = self.norm(self.dropout(self.attention(x)) + x if "attention" not in self.gone else x)
                return self.norm2(x + self.mlp(x) if "mlp" not in self.gone else x)
            case _:
                y = self.norm(x)
                x = x + self.attention(y) if "attention" not in self.gone else x
                return x + self.mlp(y) if "mlp" not in self.gone else x


class Transformer(nn.Module):
    def __init__(self, style: str) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.blocks = nn.Sequential(Block(style), Block(style))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)))


class ScaledBlock(nn.Module):
    """ConvNeXt: depthwise convolution, norm, MLP, and a learnt factor for every channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, 2 * width)
        self.gamma = nn.Parameter(torch.rand(width, 1, 1) + 0.5)
        self.gone = False

    def forward(self, x: Tensor) -> Tensor:
        if self.gone:
            return x
        return x + self.gamma * self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Nested(nn.Module):
    """A residual block in a residual block in a residual block."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.inner = Nested(width, depth - 1) if depth > 1 else nn.Tanh()
        self.gone = False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.gone else x + self.out(self.inner(torch.tanh(self.into(x))))


class Stack(nn.Module):
    """Any blocks between two linear layers, in 2 + 1 dimensions or in 2 + 2."""

    def __init__(self, *blocks: nn.Module, width: int = 6) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(4, width), nn.ModuleList(blocks), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Unet(nn.Module):
    """Skips are concatenated: no branch leaves an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.up, self.head = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = F.relu(self.down(x))
        return self.head(torch.cat([high, self.up(F.relu(self.low(high)))], 1))
