"""Pictures of digits from noise: the generator of a DCGAN (Radford et al. 2016), trained on MNIST.

    trimtab compress examples/digits_dcgan.py --drop 1.0 --size 15%

Needs `mnist` in TRIMTAB_DATA. The compressed generator is to make of the same noise the same picture. The metric is the
Fréchet distance between pictures and real digits in the features of a classifier (Heusel et al. 2017), lower is better.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Batches, baseline, kept
from mnist_lenet5 import read
from trimtab.tasks import Task

NOISE, ROWS, FEATURES = 64, 1000, 32


class Generator(nn.Module):
    """Noise to 7×7, and twice to double the size, with transposed convolutions; pictures in -1..1."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.fc = nn.Linear(NOISE, 49 * width)
        self.norm0 = nn.BatchNorm2d(width)
        self.up1 = nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width // 2)
        self.up2 = nn.ConvTranspose2d(width // 2, 1, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.fc(z).unflatten(1, (-1, 7, 7))))
        return torch.tanh(self.up2(F.relu(self.norm1(self.up1(x)))))


class Features(nn.Module):
    """A small classifier of digits; its last hidden layer says how alike pictures are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5, stride=2, padding=2)
        self.fc = nn.Linear(32 * 49, FEATURES)
        self.head = nn.Linear(FEATURES, 10)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class FrechetDistance:
    """‖μ − μ'‖² + tr(C + C' − 2 (C C')^½) between the features of pictures and those of real ones."""

    higher_is_better = False

    def __init__(self, classifier: Features, real: Tensor) -> None:
        self.classifier = classifier
        self.mean, self.covariance = self._moments(real)

    @torch.no_grad()
    def _moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.classifier.features(pictures).double()
        return features.mean(0), features.T.cov()

    def __call__(self, pictures: Tensor, target: Tensor) -> float:
        mean, covariance = self._moments(pictures)
        mixed = torch.linalg.eigvals(covariance @ self.covariance).real.clamp(min=0).sqrt().sum()
        distance = (mean - self.mean).square().sum() + covariance.trace() + self.covariance.trace() - 2 * mixed
        return float(distance)


def play(generator: Generator, pictures: Batches, epochs: int) -> None:
    """Against a critic of two strided convolutions; both by Adam, as in the paper."""
    critic = nn.Sequential(
        nn.Conv2d(1, 32, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(64 * 49, 1),
    )
    ours, theirs = (torch.optim.Adam(m.parameters(), 2e-4, betas=(0.5, 0.999)) for m in (generator, critic))
    for epoch in range(epochs):
        for real, _ in pictures:
            made = generator(torch.randn(len(real), NOISE))
            loss = F.softplus(-critic(real)).mean() + F.softplus(critic(made.detach())).mean()
            theirs.zero_grad()
            loss.backward()
            theirs.step()
            ours.zero_grad()
            F.softplus(-critic(made)).mean().backward()
            ours.step()
        print(f"baseline: epoch {epoch + 1} of {epochs}, critic's loss {loss.item():.3f}", file=sys.stderr, flush=True)


def task(width: int = 64, batch: int = 128, epochs: int = 8) -> Task:
    (images, labels), (test_images, _) = read("train"), read("test")
    scaled, test_scaled = ((x * 0.3081 + 0.1307) * 2 - 1 for x in (images, test_images))
    pictures = Batches(scaled, labels, batch=batch, shuffle=True)
    generator = kept(f"digits-dcgan-{width}-{epochs}", lambda: Generator(width), lambda it: play(it, pictures, epochs))
    classifier = baseline("digits-features", Features, pictures, F.cross_entropy, epochs=2)

    def noise(number: int, seed: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(number, NOISE, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return z, torch.cat([generator(rows) for rows in z.split(1000)])

    return Task(
        model=generator,
        train=Batches(*noise(20_000, 1), batch=batch, shuffle=True),
        val=Batches(*noise(ROWS, 2), batch=500),
        test=Batches(*noise(ROWS, 3), batch=500),
        loss=F.mse_loss,
        metric=FrechetDistance(classifier, test_scaled[:5000]),
    )
