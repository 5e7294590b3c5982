"""Rows of a convolution times its weight are the convolution."""

import pytest
import torch
import torch.nn.functional as F

from trimtab.solve import patches

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize(
    ("rank", "kernel", "stride", "padding", "dilation", "groups"),
    [
        (1, (3,), (1,), (1,), (1,), 1),
        (1, (5,), (2,), (0,), (2,), 2),
        (2, (3, 3), (1, 1), (1, 1), (1, 1), 1),
        (2, (3, 2), (2, 1), (1, 0), (1, 2), 2),
        (2, (3, 3), (1, 1), (1, 1), (1, 1), 4),
        (3, (2, 3, 1), (1, 2, 1), (0, 1, 2), (1, 1, 1), 1),
    ],
)
def test_rows_times_weight_are_the_convolution(rank, kernel, stride, padding, dilation, groups):
    x = torch.randn(3, 4, *(9, 8, 7)[:rank], dtype=torch.float64)
    weight = torch.randn(8, 4 // groups, *kernel, dtype=torch.float64)
    expected = CONVOLUTIONS[rank](x, weight, None, stride, padding, dilation, groups)
    size = expected[0, 0].numel()
    positions = torch.randperm(size)[: size // 2 + 1]
    rows = patches(x, kernel, stride, [(n, n) for n in padding], dilation, positions, groups)
    found = rows @ weight.view(groups, 8 // groups, -1).mT  # [groups, rows, outputs a group]
    wanted = expected.flatten(2)[:, :, positions].permute(0, 2, 1).reshape(-1, groups, 8 // groups)
    torch.testing.assert_close(found, wanted.transpose(0, 1))
