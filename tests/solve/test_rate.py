"""What integers cost, and what errors cost that others make up for: against loops and least squares."""

import math

import pytest
import torch

from trimtab.solve import compensated_curvature, magnitude_bits


def test_bits_of_magnitudes_by_hand():
    integers = torch.tensor([0, 0, 0, 0, 0, 1, -1, 1, 3])
    shares = {0: 6 / 13, 1: 4 / 13 / 2, 2: 1 / 13 / 2, 3: 2 / 13 / 2}
    bits = [-math.log2(shares[size]) for size in range(4)]
    assert magnitude_bits(integers, 3).tolist() == pytest.approx([bits[0], bits[1], bits[2], bits[2]])


def test_curvature_is_what_is_left_when_later_columns_make_up():
    """Of the error 1 in one entry: the others that `gptq` has not come to yet are free, those before it are settled."""
    gram = torch.randn(7, 7, dtype=torch.float64)
    gram = gram @ gram.T + 0.1 * torch.eye(7, dtype=torch.float64)
    order = gram.diagonal().argsort(descending=True).tolist()
    found = compensated_curvature(gram[None])[0, 0]
    for place, column in enumerate(order):
        later = order[place + 1 :]
        left = float(gram[column, column])
        if later:
            among, between = gram[later][:, later], gram[later, column]
            left -= float(between @ torch.linalg.solve(among, between))
        assert float(found[column]) == pytest.approx(left)
