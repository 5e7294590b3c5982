"""Mutual information of what the units put out with the labels."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.stats.found import Found
from trimtab.stats.readings import mean_by_unit
from trimtab.stats.row_means import RowMeans
from trimtab.stats.statistic import Loss
from trimtab.tasks.rows import count
from trimtab.tasks.task import Inputs

BINS = 8


class MutualInformation:
    """`units`: I(A; Y) in nats of the label Y and a unit's mean output a row A, in 8 bins with equally many rows.

    The histogram's estimate less its bias, (bins - 1)(labels - 1) / 2 rows, and at least 0. Labels are integers, one a
    row.
    Source: Cover & Thomas 2006, "Elements of Information Theory", eq. 2.28; the bias by Miller 1955, "Note on the Bias
    of Information Estimates".
    """

    supervised: ClassVar[bool] = True

    def __init__(self, network: Network, loss: Loss) -> None:
        self._network, self._rows = network, RowMeans(network)
        self._labels: list[Tensor] = []

    def add(self, inputs: Inputs, target: Any) -> None:
        """One forward pass. Raises: ConfigError when the labels are not one integer a row."""
        rows = count(inputs)
        if not isinstance(target, Tensor) or target.is_floating_point() or target.numel() != rows:
            raise ConfigError(
                "statistics: 'mutual_information' needs one integer label a row, got "
                f"{_described(target)}; choose 'entropy', which needs none"
            )
        self._labels.append(target.flatten().cpu().long())
        self._rows.add(inputs)

    def found(self) -> Found:
        """The information of all groups that a known operator reads."""
        labels = torch.unique(torch.cat(self._labels), return_inverse=True)[1]
        means = self._rows.all()
        return Found(
            units=mean_by_unit(
                self._network, {r: information(m, labels) for r, m in means.items() if len(m) == len(labels)}
            )
        )


def information(values: Tensor, labels: Tensor) -> Tensor:
    """[rows, channels] and labels 0..L-1 [rows] give the mutual information of each channel with them. [channels]"""
    rows = len(values)
    edges = torch.quantile(values, torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1], dim=0)
    codes = (values[:, :, None] > edges.T[None]).sum(2)
    bins = torch.nn.functional.one_hot(codes, BINS).double()
    classes = torch.nn.functional.one_hot(labels).double()
    joint = torch.einsum("ncb,nl->cbl", bins, classes) / rows
    independent = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    plug_in = torch.xlogy(joint, joint).sum((1, 2)) - torch.xlogy(joint, independent).sum((1, 2))
    used = (joint.sum(2) > 0).sum(1)
    bias = (used - 1) * (classes.shape[1] - 1) / (2 * rows)
    return (plug_in - bias).clamp(min=0)


def _described(target: Any) -> str:
    return f"{target.dtype} {list(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
