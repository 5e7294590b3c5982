"""What is switched for a moment and put back: train and eval mode, the number of threads, logs and warnings."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def evaluating(forward: Any) -> Iterator[None]:
    """Put a module or a Network into eval mode, and every part of it back as it was. Anything else is left alone."""
    if isinstance(forward, nn.Module):
        modes = [(module, module.training) for module in forward.modules()]
        forward.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
    elif getattr(forward, "training", False):
        forward.eval()
        try:
            yield
        finally:
            forward.train()
    else:
        yield


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let torch compute with this many threads, and put the number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """torch and its exporters log whole graphs when they fail, and warn of their own doings; an error says enough."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
