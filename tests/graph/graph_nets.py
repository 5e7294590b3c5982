"""Networks that the graph tests cut."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.extra = stride, width - inputs
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if projection and stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2), "constant", 0)
        return F.relu(y + x)


class CifarResNet(nn.Module):
    def __init__(self, depth: int = 20, widths: tuple[int, ...] = (16, 32, 64), projection: bool = False) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, width in enumerate(widths, 1):
            layers = []
            for block in range(blocks):
                layers.append(BasicBlock(inputs, width, 2 if stage > 1 and block == 0 else 1, projection))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


def randomize(model: nn.Module) -> nn.Module:
    """Random statistics and affine parameters: a norm's ones and zeros would hide errors."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model


class LeNet(nn.Module):
    """A hard-coded view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        x = x.view(-1, 16 * 4 * 4)
        return F.log_softmax(self.fc3(F.relu(self.fc2(F.relu(self.fc1(x))))), dim=1)


class VGG(nn.Module):
    """BatchNorm, dropout, flatten of 2 x 2 positions, hidden linears."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in (8, 12, 16):
            layers += [nn.Conv2d(inputs, width, 3, padding="same"), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2)]
            inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(16 * 4, 20), nn.BatchNorm1d(20), nn.ReLU(True), nn.Linear(20, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.body = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.residual = stride == 1 and inputs == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, hidden, 1)
        self.up = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class MobileNet(nn.Module):
    """Depthwise convolutions, residuals and squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(
            InvertedResidual(8, 8, 1, 2),
            SqueezeExcite(8, 4),
            InvertedResidual(8, 12, 2, 3),
            InvertedResidual(12, 12, 1, 2),
        )
        self.head = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu6(self.bn(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class DenseNet(nn.Module):
    """Concatenations of everything before, pre-activation norms over the concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1, bias=False) for i in range(4))
        self.transition = nn.Conv2d(22, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        x = F.avg_pool2d(self.transition(torch.cat(features, dim=1)), 2)
        return self.head(x.mean(dim=[-2, -1]))


class ResNeXt(nn.Module):
    """Grouped convolutions between 1 x 1 convolutions, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.reduce = nn.Conv2d(8, 12, 1)
        self.bn1 = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 24, 3, padding=1, groups=4)
        self.bn2 = nn.BatchNorm2d(24)
        self.expand = nn.Conv2d(24, 8, 1)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.bn1(self.reduce(x)))
        y = F.relu(self.bn2(self.grouped(y)))
        x = F.gelu(x + self.expand(y))
        return self.head(torch.flatten(F.max_pool2d(x, 2), 1))


class Inception(nn.Module):
    """Branches concatenated, one of them a pool of the input, then split again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.b1 = nn.Conv2d(8, 6, 1)
        self.b2a = nn.Conv2d(8, 4, 1)
        self.b2b = nn.Conv2d(4, 6, (1, 3), padding=(0, 1))
        self.bn = nn.BatchNorm2d(20, affine=False)
        self.left = nn.Conv2d(10, 5, 1)
        self.right = nn.Conv2d(10, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.stem(x), 0.2)
        pooled = F.avg_pool2d(x, 3, stride=1, padding=1)
        y = self.bn(torch.cat([self.b1(x), self.b2b(self.b2a(x)), pooled], 1))
        left, right = y.chunk(2, dim=1)
        z = self.left(left) * torch.sigmoid(self.right(right))
        return self.head(z.amax((2, 3)))


class Shared(nn.Module):
    """One layer used twice, two inputs, a dictionary of nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(2, 6, 3)
        self.vector = nn.Linear(5, 9)
        self.shared = nn.Linear(9, 9)
        self.mix = nn.Linear(6 + 9, 8)
        self.out = nn.Linear(8, 4)
        self.tied = nn.Linear(8, 4, bias=False)
        self.tied.weight = self.out.weight

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, object]:
        a = F.relu(self.image(image)).mean((2, 3))
        b = F.elu(self.shared(F.elu(self.shared(self.vector(vector)))))
        mixed = F.relu(self.mix(torch.cat([a, b], -1)))
        return {"logits": self.out(mixed), "more": (self.tied(mixed), [mixed.sum(1)])}


class ConvNet1d(nn.Module):
    """1-D convolutions, PReLU, a channel shuffle, unflatten and a transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 8, 3, padding=1)
        self.act = nn.PReLU(8)
        self.conv2 = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.conv3 = nn.Conv1d(8, 6, 1)
        self.token = nn.Linear(6, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.act(self.conv1(x)))
        x = x.unflatten(1, (2, 4)).transpose(1, 2).reshape(x.shape[0], 8, -1)
        x = F.max_pool1d(self.conv3(x), 2).permute(0, 2, 1)
        return self.head(F.relu(self.token(x))).mean(1)


class Autoencoder(nn.Module):
    """An MLP whose decoder's weight is the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(12, 7)
        self.bias = nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(F.relu(self.encode(x)), self.encode.weight) + self.bias
