"""Random networks, the same for the same program: images, sequences, or both, with nested outputs.

A program is a list of moves (`random_moves.py`); `random_network(seed)` draws one.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import random_images as random_images
import random_sequences as random_sequences
import torch
import torch.nn.functional as F
from random_moves import IMAGE_MOVES, SEQUENCE_MOVES
from torch import Tensor, nn

from trimtab.tasks.task import call

PICKS = 60
"""Moves draw their choices from a number below this; divisible by all that they divide by."""

TO_SEQUENCE, TO_IMAGE = "to_sequence", "to_image"
MOVES = (*IMAGE_MOVES, *SEQUENCE_MOVES, TO_SEQUENCE, TO_IMAGE)

Steps = list[tuple[str, int]]


@dataclass(frozen=True)
class Program:
    """The steps (move, its choices), the number of image inputs, whether it begins with a sequence, and its outputs."""

    steps: Steps
    images: int
    begins_with_sequence: bool
    outputs: int


def drawn(seed: int) -> Program:
    """A program, the same for the same seed."""
    draw = random.Random(seed)
    first = draw.random() < 0.4
    names = [*SEQUENCE_MOVES] if first else [*IMAGE_MOVES]
    steps = []
    for _ in range(draw.randint(1, 8)):
        name = draw.choice(names)
        if draw.random() < 0.1:
            name = TO_IMAGE if names[0] in SEQUENCE_MOVES else TO_SEQUENCE
            names = [*IMAGE_MOVES] if name == TO_IMAGE else [*SEQUENCE_MOVES]
        steps.append((name, draw.randrange(PICKS)))
    return Program(steps, draw.randint(1, 2), first, draw.randrange(4))


def random_network(seed: int) -> tuple[nn.Module, Any]:
    """A network in eval mode with random weights, and an example of its inputs: the same for the same seed."""
    return built(drawn(seed))


def built(program: Program) -> tuple["RandomNet", Any]:
    """The network of a program, with its example. The random state of the caller is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(repr(program).encode()))
        model = RandomNet(program)
        return model.eval(), model.example()


class RandomNet(nn.Module):
    """Steps that transform a stream, of which heads at the end read; a step that does not fit the stream is skipped."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.layers = nn.ModuleDict()
        self.tensors = nn.ParameterDict()
        self.past: list[Tensor] = []
        with torch.no_grad():
            call(self, self.example())
        self.past = []
        for name, tensor in self.named_buffers():
            if "num_batches" not in name:
                tensor.uniform_(0.5, 1.5)
        for i, (name, parameter) in enumerate(self.named_parameters()):
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
            parameter.requires_grad_(i % 5 != len(program.steps) % 5)

    def example(self) -> Any:
        """By position or by name."""
        tensors = torch.randint(0, 7, (3, 6)), *(torch.randn(3, 3, 6, 6) for _ in range(self.program.images))
        return tensors if self.program.outputs % 2 else dict(zip(("tokens", "image", "other"), tensors, strict=False))

    def layer(self, name: str, make: Callable[[], nn.Module]) -> Any:
        if name not in self.layers:
            self.layers[name] = make()
        return self.layers[name]

    def tensor(self, name: str, *shape: int, buffer: bool = False) -> Tensor:
        if buffer:
            if not hasattr(self, "buffer_" + name):
                self.register_buffer("buffer_" + name, torch.ones(shape))
            return self.get_buffer("buffer_" + name)
        if name not in self.tensors:
            self.tensors[name] = nn.Parameter(torch.ones(shape))
        return self.tensors[name]

    def forward(self, tokens: Tensor, image: Tensor, other: Tensor | None = None) -> Any:
        self.tokens, self.images = tokens, [image] if other is None else [image, other]
        if self.program.begins_with_sequence:
            x = self.layer("stem", lambda: nn.Embedding(7, 12))(tokens)
        else:
            x = self.layer("stem", lambda: nn.Conv2d(3, 12, 3, padding=1))(self.images[0])
        self.past = [x]
        for i, (move, pick) in enumerate(self.program.steps):
            x = self.step(move, f"{move}{i}", x, pick)
            self.past.append(x)
        return self.finish(x)

    def step(self, move: str, name: str, x: Tensor, pick: int) -> Tensor:
        if x.dim() == 4 and move in IMAGE_MOVES:
            return IMAGE_MOVES[move](self, name, x, pick)
        if x.dim() == 3 and move in SEQUENCE_MOVES:
            return SEQUENCE_MOVES[move](self, name, x, pick)
        if x.dim() == 4 and move == TO_SEQUENCE:
            small = F.adaptive_avg_pool2d(x, (2, 3))
            return (
                small.flatten(2).transpose(1, 2) if pick % 2 else small.permute(0, 2, 3, 1).reshape(-1, 6, x.shape[1])
            )
        if x.dim() == 3 and move == TO_IMAGE:
            image = x.transpose(1, 2).unflatten(2, (2, 3)) if pick % 2 else x.view(-1, 2, 3, x.shape[2]).movedim(3, 1)
            return F.interpolate(image, size=(6, 6))
        return x

    def finish(self, x: Tensor) -> Any:
        """A head of two layers on the stream, and as many outputs more as the program says."""
        if x.dim() == 4:
            x = F.adaptive_avg_pool2d(x, 2)
            flat = x.flatten(1) if len(self.program.steps) % 2 else x.reshape(x.shape[0], -1)
        else:
            flat = (x[:, 0], x.mean(1), x.flatten(1))[len(self.program.steps) % 3]
        hidden = F.relu(self.layer("head1", lambda: nn.Linear(flat.shape[1], 9))(flat))
        y = self.layer("head2", lambda: nn.Linear(9, 3))(hidden)
        match self.program.outputs:
            case 0:
                return y
            case 1:
                return {"y": y, "sum": {"all": [hidden.sum(1), None]}}
            case 2:
                return y, (self.layer("second", lambda: nn.Linear(9, 2))(torch.tanh(hidden)),)
        early = self.past[len(self.past) // 2]
        pooled = early.mean((2, 3)) if early.dim() == 4 else early[:, -1]
        return [y, {"early": self.layer("early", lambda: nn.Linear(pooled.shape[1], 2))(pooled)}]
