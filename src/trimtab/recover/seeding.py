"""Random numbers that depend only on (seed, epoch), so that a resumed run draws what the killed one would have."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, epoch: int, *loaders: object) -> Iterator[None]:
    """Seed torch, numpy, random and the loaders' own torch generators; afterwards all are as they were.

    A loader with a `set_epoch(epoch)` method is told the epoch. Not covered: loaders that keep any other random
    state, and `persistent_workers`, whose processes seed themselves once.
    """
    generators = [generator for loader in loaders for generator in _generators(loader)]
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    states = [generator.get_state() for generator in generators]
    word = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    torch.manual_seed(word)
    np.random.seed(word)
    random.seed(word)
    for offset, generator in enumerate(generators, start=1):
        generator.manual_seed(word + offset)
    for loader in loaders:
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _generators(loader: object) -> list[torch.Generator]:
    holders = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found: list[torch.Generator] = []
    for holder in holders:
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not other for other in found):
            found.append(generator)
    return found
