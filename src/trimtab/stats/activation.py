"""Sizes of what the units put out, of what the weights read, and of what the branches add."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimtab.graph import Branch, Network
from trimtab.graph.analysis import attribute, tensor_names
from trimtab.graph.layers import parameter_of
from trimtab.graph.values import bind
from trimtab.stats.found import Found
from trimtab.stats.observe import Look, observe
from trimtab.stats.readings import Reading, as_entries, find_readings, looks, mean_by_unit
from trimtab.stats.statistic import Loss
from trimtab.tasks.task import Inputs

aten = torch.ops.aten


class Activation:
    """`units`: mean |a| of what is read of a unit. `entries`: mean a² of what a weight is multiplied with (of a table,
    how often its row is looked up), to be broadcast. `branches`: Σ(what it adds)² / Σ(what it is added to)².

    Means run over rows and positions; several readers of a unit are averaged.
    """

    supervised: ClassVar[bool] = False

    def __init__(self, network: Network, loss: Loss) -> None:
        self._network = network
        self._readings = find_readings(network)
        self._sizes: dict[Reading, Tensor] = {}
        self._squares: dict[Reading, Tensor] = {}
        self._numbers: dict[Reading, int] = {}
        self._tables: dict[str, Tensor] = {}
        self._looked_up: dict[str, int] = {}
        self._added = {branch.name: torch.zeros(2, dtype=torch.float64) for branch in network.branches}
        self._looks: dict[str, Look] = looks(self._readings, self._see) | self._other_looks()

    def _other_looks(self) -> dict[str, Look]:
        names = tensor_names(self._network.module)
        found: dict[str, Look] = {branch.node: partial(self._see_sum, branch) for branch in self._network.branches}
        for node in self._network.module.graph.find_nodes(op="call_function", target=aten.embedding.default):
            parameter = parameter_of(self._network.module, bind(node)["weight"], names)
            if parameter is not None:
                found[node.name] = partial(self._see_table, parameter)
        return found

    @torch.no_grad()
    def add(self, inputs: Inputs, target: Any) -> None:
        """One forward pass."""
        observe(self._network, inputs, looks=self._looks)

    def _see(self, reading: Reading, value: Tensor) -> None:
        rows = value.detach().double().movedim(reading.channels, -1).flatten(0, -2)
        self._sizes[reading] = self._sizes.get(reading, 0) + rows.abs().sum(0)
        self._squares[reading] = self._squares.get(reading, 0) + rows.square().sum(0)
        self._numbers[reading] = self._numbers.get(reading, 0) + len(rows)

    def _see_sum(self, branch: Branch, given: dict[str, Any], result: Any) -> None:
        skip = "self" if branch.operand == "other" else "other"
        energies = [given[name].detach().double().square().sum() for name in (branch.operand, skip)]
        self._added[branch.name] += torch.stack(energies).cpu()

    def _see_table(self, parameter: str, given: dict[str, Any], result: Any) -> None:
        indices = given["indices"].flatten()
        counts = torch.bincount(indices, minlength=len(given["weight"])).double()
        self._tables[parameter] = self._tables.get(parameter, 0) + counts
        self._looked_up[parameter] = self._looked_up.get(parameter, 0) + len(indices)

    def found(self) -> Found:
        """Means over everything that was seen."""
        module = self._network.module
        entries: dict[str, list[Tensor]] = {
            name: [(counts / self._looked_up[name])[:, None].cpu()] for name, counts in self._tables.items()
        }
        for reading, squares in self._squares.items():
            weight = attribute(module, reading.parameter)
            means = as_entries(reading, weight, (squares / self._numbers[reading]).cpu())
            entries.setdefault(reading.parameter, []).append(means)
        return Found(
            units=mean_by_unit(self._network, {r: s / self._numbers[r] for r, s in self._sizes.items()}),
            entries={name: _mean(parts) for name, parts in entries.items()},
            branches={name: added / skip.clamp(min=1e-30) for name, (added, skip) in self._added.items()},
        )


def _mean(parts: list[Tensor]) -> Tensor:
    """Of a weight that is read several times, the mean over its readings."""
    return torch.stack(torch.broadcast_tensors(*parts)).mean(0)
