"""The processes that train one network together, each on its share of the rows of every batch.

Under an initialised `torch.distributed` group (torchrun, Accelerate) every process calls `recover` with the same
arguments and reads the same batches; what they do is then what one process would do with those batches.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError, RunError, TaskError
from trimtab.graph import Network
from trimtab.quant import ActivationFakeQuantize
from trimtab.recover.whole_batch import WholeBatch, gather, moments
from trimtab.tasks.rows import concatenate, count, describe
from trimtab.tasks.switches import evaluating
from trimtab.tasks.task import Inputs, Loader, call


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process trains on: its rows of a batch, and their share of the batch's rows, 0..1.

    A process that gets no row (of a batch with fewer rows than processes) has one row all the same, with share 0.
    """

    inputs: Inputs
    target: Any
    share: float


class Crew:
    """Process `rank` of `size`; alone it leaves everything as it is. `first` is the one that writes files.

    Loss and gradient of the whole batch are means over rows, weighted by the rows that each process has.
    """

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this process writes checkpoints, events and progress."""
        return self.rank == 0

    def same(self, facts: Mapping[str, str]) -> None:
        """Raises: ConfigError when a process has another value than this one."""

    def sees(self, path: Path) -> bool:
        """Whether there is such a file, for all processes."""
        return path.exists()

    def agreed(self, value: float) -> float:
        """What the first process says, for what they could see differently, such as the clock."""
        return value

    def batches(self, loader: Loader) -> Iterable[tuple[Inputs, Any]]:
        """The batches of a loader, the same for every process."""
        return loader

    @contextmanager
    def share(self, inputs: Inputs, target: Any) -> Iterator[Part]:
        """This process's part of a batch, for one forward and backward pass of `share · loss` inside."""
        yield Part(inputs=inputs, target=target, share=1.0)

    def variance(self, x: Tensor) -> Tensor:
        """The biased variance of all entries of a tensor whose rows are the whole batch's."""
        return x.var(correction=0)

    def total(self, loss: float) -> float:
        """The sum over processes, after `share`."""
        return loss

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of the gradients of all."""

    def forward(self, network: Network) -> Callable[..., Any]:
        """The network, for evaluation: every process runs its rows, and has the outputs of all."""
        return network


def assemble(network: Network) -> Crew:
    """The processes of the default group, to train `network`; this one alone where there is no group.

    Raises: ConfigError under torchrun without a group, for every process would train and write for itself.
    """
    if dist.is_available() and dist.is_initialized():
        return _Processes(network) if dist.get_world_size() > 1 else Crew()
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "recover: torchrun started several processes, and they have no group; "
            "call torch.distributed.init_process_group('gloo') before recover"
        )
    return Crew()


class _Processes(Crew):
    """The processes of the default group."""

    def __init__(self, network: Network) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = network.device
        self._scales = _scales_by_rows(network)
        self._mark, self._present = 0.0, True

    def same(self, facts: Mapping[str, str]) -> None:
        """Raises: ConfigError that names what differs, in every process."""
        words = [int.from_bytes(hashlib.sha256(fact.encode()).digest()[:6]) for fact in facts.values()]
        for name, column in zip(facts, self._everyone(words).T, strict=True):
            for rank in (column != column[0]).nonzero().flatten().tolist():
                raise ConfigError(
                    f"recover: process {rank} has another {name} than process 0; give all processes the same arguments"
                )

    def sees(self, path: Path) -> bool:
        """As process 0 sees it. Raises: RunError in a process that does not see the file."""
        exists = bool(self.agreed(path.exists()))
        if exists and not path.exists():
            raise RunError(f"{path}: process 0 has it, process {self.rank} not; put it where all processes see it")
        return exists

    def agreed(self, value: float) -> float:
        """What process 0 says."""
        return float(self._everyone([value])[0])

    def batches(self, loader: Loader) -> Iterator[tuple[Inputs, Any]]:
        """Between batches random numbers are this process's own: dropout differs, what the loader draws does not."""
        word = int(np.random.SeedSequence([torch.initial_seed(), self.rank]).generate_state(1)[0])
        own = torch.Generator().manual_seed(word).get_state()
        batches = iter(loader)
        while (batch := next(batches, None)) is not None:
            shared = torch.get_rng_state()
            torch.set_rng_state(own)
            yield batch
            own = torch.get_rng_state()
            torch.set_rng_state(shared)

    @contextmanager
    def share(self, inputs: Inputs, target: Any) -> Iterator[Part]:
        """Inside, batch norm sees the whole batch, and scales of activations get the gradient that it gives."""
        rows = count(inputs)
        self._mark += _mark(inputs, target)
        start, stop = self._bounds(rows)
        share, self._present = (stop - start) / rows, stop > start
        mine = slice(start, max(stop, start + 1))
        part = Part(inputs=_take(inputs, mine, rows), target=_take(target, mine, rows), share=share)
        # LSQ divides the gradient by the root of the number of entries, and here are fewer than in the whole batch.
        hooks = [scale.register_hook(lambda gradient: gradient * share**0.5) for scale in self._scales]
        try:
            with WholeBatch(present=self._present):
                yield part
        finally:
            for hook in hooks:
                hook.remove()

    def variance(self, x: Tensor) -> Tensor:
        """That of the whole batch. Call it inside `share`, in every process."""
        return moments(x, list(range(x.dim())), present=self._present)[2]

    def total(self, loss: float) -> float:
        """Raises: ConfigError in every process when they read different batches."""
        mark, self._mark = self._mark, 0.0
        losses, marks = self._everyone([loss, mark]).T
        _check_marks(marks)
        return losses.sum().item()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """One all-reduce. Where no process has a gradient there is none afterwards."""
        parameters = list(parameters)
        empty = [parameter.grad is None for parameter in parameters]
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        flat = torch.cat([gradients[0].new_tensor(empty), *gradients])
        dist.all_reduce(flat)
        empty_in, *sums = flat.split([len(empty), *(gradient.numel() for gradient in gradients)])
        for parameter, gradient, missing in zip(parameters, sums, empty_in.tolist(), strict=True):
            if missing < self.size:
                parameter.grad = torch.empty_like(parameter).copy_(gradient.view_as(parameter))

    def forward(self, network: Network) -> Callable[..., Any]:
        """Raises: TaskError for outputs without rows; ConfigError when processes read different batches."""

        def run(*args: Any, **kwargs: Any) -> Any:
            batch = kwargs or args
            rows = count(batch)
            with self.share(batch, None) as part:
                outputs = call(network, part.inputs)
            self.total(0.0)
            return pytree.tree_map_only(Tensor, lambda leaf: self._all_rows(leaf, rows), outputs)

        return run

    def _bounds(self, rows: int) -> tuple[int, int]:
        return rows * self.rank // self.size, rows * (self.rank + 1) // self.size

    def _all_rows(self, own: Tensor, rows: int) -> Tensor:
        """The rows of all processes; a row of the batch may be several rows of an output."""
        start, stop = self._bounds(rows)
        here = max(1, stop - start)
        if own.dim() == 0 or own.shape[0] % here:
            raise TaskError(f"distributed evaluation needs outputs with rows along dimension 0, got {describe(own)}")
        each = own.shape[0] // here
        numbers = own.to(torch.uint8) if own.dtype == torch.bool else own
        everything = numbers.new_zeros(rows * each, *own.shape[1:])
        everything[start * each : stop * each] = numbers[: (stop - start) * each]
        dist.all_reduce(everything)
        return everything.to(own.dtype)

    def _everyone(self, own: Sequence[float]) -> Tensor:
        """[processes, len(own)] float64"""
        return gather(torch.tensor(own, dtype=torch.float64, device=self._device)).cpu()


def _scales_by_rows(network: Network) -> list[nn.Parameter]:
    """Scales and offsets of activations that have more entries when the batch has more rows; constants have not."""
    entries: dict[nn.Parameter, list[int]] = {}
    sites = [module for module in network.module.modules() if isinstance(module, ActivationFakeQuantize)]
    hooks = [
        site.register_forward_pre_hook(
            lambda site, args, name=name: entries.setdefault(getattr(site, name), []).append(args[0].numel())
        )
        for site in sites
        for name in site.damped
    ]
    try:
        with torch.no_grad(), evaluating(network):
            for batch in (network.example, concatenate([network.example, network.example])) if sites else ():
                call(network, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return [scale for scale, counted in entries.items() if counted[0] != counted[-1] and scale.requires_grad]


def _take(batch: Any, mine: slice, rows: int) -> Any:
    """Rows of every tensor. Raises: TaskError for one that has not a row for each of the batch."""

    def of(leaf: Tensor) -> Tensor:
        if leaf.dim() == 0 or leaf.shape[0] != rows:
            raise TaskError(f"recover: {rows} rows are shared out by dimension 0, and a tensor is {describe(leaf)}")
        return leaf[mine]

    return pytree.tree_map_only(Tensor, of, batch)


def _mark(*batch: Any) -> float:
    """A number that two batches hardly share: from the first and last rows of all tensors."""
    mark = 0.0
    for place, leaf in enumerate(pytree.tree_leaves(batch), start=1):
        if isinstance(leaf, Tensor) and leaf.numel() and not leaf.is_complex():
            ends = (leaf[0].double().sum() + 3 * leaf[-1].double().sum()).nan_to_num(0.0, 0.0, 0.0)
            mark += place * (len(leaf) + ends.item())
    return mark


def _check_marks(marks: Tensor) -> None:
    """Raises: ConfigError when processes marked their batches differently."""
    for rank in (marks != marks[0]).nonzero().flatten().tolist():
        raise ConfigError(
            f"recover: process {rank} reads other batches than process 0; give all processes the same whole loader "
            "(no DistributedSampler), with no random state but the seed"
        )
