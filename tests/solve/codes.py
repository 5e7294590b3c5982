"""A small layer whose weights take the integers −2 … 2: its weight, gram and cross, and the error of other weights."""

import torch

from trimtab.solve import mean_squared_error


def problem(seed, groups=1, n=4, m=2):
    torch.manual_seed(seed)
    root = torch.randn(groups, 3 * n, n, dtype=torch.float64) + torch.randn(groups, 3 * n, 1, dtype=torch.float64)
    weight = torch.randn(groups, m, n, dtype=torch.float64)
    gram = root.mT @ root / (3 * n)
    return weight, gram, weight @ gram


def to_integers(values, columns):
    return values.round().clamp(-2, 2)


def error(weight, gram, cross):
    return mean_squared_error(gram, cross, weight).sum().item()
