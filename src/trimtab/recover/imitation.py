"""Inner activations of a teacher that the student imitates: features and attention maps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx import Node

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.graph.copying import described
from trimtab.recover.distill import SMALLEST_VARIANCE, whole_variance
from trimtab.recover.settings import Imitation


class Tap(nn.Module):
    """Remembers what flowed past in the last forward pass."""

    elementwise = True  # what the graph analysis needs to know

    def __init__(self) -> None:
        super().__init__()
        self._seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self._seen = x
        return x

    def read(self) -> Tensor:
        """The value, as float32."""
        assert self._seen is not None
        return self._seen.float()


class Taps:
    """Taps in a network's graph, or on a module's submodules; `remove` leaves it as it was."""

    def __init__(self, source: Network | nn.Module) -> None:
        self.source = source
        self._taps: dict[str, Tap] = {}
        self._undo: list[Callable[[], None]] = []

    def at(self, place: str) -> Tap:
        """The tap at a place, the same for every caller. Raises: ConfigError for an unknown place."""
        if place not in self._taps:
            tap = self._taps[place] = Tap()
            if isinstance(self.source, nn.Module):
                self._hook(self.source, place, tap)
            else:
                self._insert(self.source, place, tap)
        return self._taps[place]

    def _hook(self, module: nn.Module, place: str, tap: Tap) -> None:
        known = dict(module.named_modules())
        if place not in known or not place:
            raise ConfigError(f"recover: imitate: the teacher has no submodule {place!r}; it has {_some(known)}")

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise ConfigError(f"recover: imitate: the teacher's {place!r} returns no tensor; name another place")
            tap(output)

        self._undo.append(known[place].register_forward_hook(hook).remove)

    def _insert(self, network: Network, place: str, tap: Tap) -> None:
        node = _node(network, place)
        name = next(name for number in count() if not hasattr(network.module, name := f"tap_{number}"))
        network.module.add_submodule(name, tap)
        with network.module.graph.inserting_after(node):
            call = network.module.graph.call_module(name, (node,))
        call.meta = described(node)
        network.module.recompile()

        def remove() -> None:
            network.module.graph.erase_node(call)
            network.module.delete_submodule(name)
            network.module.recompile()

        self._undo.append(remove)

    def remove(self) -> None:
        """Take all taps out."""
        while self._undo:
            self._undo.pop()()


@dataclass(frozen=True)
class _Pair:
    """What is compared at one place. `channels` is the dimension in which widths may differ."""

    student: Tap
    teacher: Tap
    channels: int
    projection: nn.Parameter | None

    def values(self) -> tuple[Tensor, Tensor]:
        return self.student.read(), self.teacher.read().detach()


class Imitator:
    """The term that one `Imitation` adds to the loss; call it after both have run on the same batch."""

    def __init__(self, imitation: Imitation, pairs: Sequence[_Pair]) -> None:
        self.imitation = imitation
        self._pairs = pairs

    def __call__(self, variance: Callable[[Tensor], Tensor] = whole_variance) -> Tensor:
        distances = []
        for pair in self._pairs:
            student, teacher = pair.values()
            if pair.projection is not None:
                student = torch.tensordot(student, pair.projection, ([pair.channels], [0])).movedim(-1, pair.channels)
            if self.imitation.kind == "features":
                distances.append(feature_distance(student, teacher, variance))
            else:
                distances.append(attention_distance(student, teacher, pair.channels))
        return self.imitation.weight * torch.stack(distances).mean()

    def projections(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What was learned along with the student, by place."""
        for number, pair in enumerate(self._pairs):
            if pair.projection is not None:
                yield str(number), pair.projection


def feature_distance(student: Tensor, teacher: Tensor, variance: Callable[[Tensor], Tensor] = whole_variance) -> Tensor:
    """Mean squared difference divided by the variance of the teacher's values in this batch.

    Source: Romero et al. 2015, "FitNets", eq. 3, on the scale of the teacher's values.
    """
    return F.mse_loss(student, teacher) / variance(teacher).clamp_min(SMALLEST_VARIANCE)


def attention_distance(student: Tensor, teacher: Tensor, channels: int) -> Tensor:
    """Squared distance of the attention maps Σ_c a², each scaled to length 1, a mean over rows: 0..2.

    Source: Zagoruyko & Komodakis 2017, "Paying More Attention to Attention", eq. 2 with p = 2.
    """
    maps = [F.normalize(x.square().sum(channels).flatten(1), dim=1) for x in (student, teacher)]
    return (maps[0] - maps[1]).square().sum(1).mean()


def imitators(
    imitations: Sequence[Imitation], student: Taps, teacher: Taps, run: Callable[[], None]
) -> tuple[Imitator, ...]:
    """Place all taps, and compare shapes after `run`, which sends one batch through both.

    Raises: ConfigError for places that are unknown or cannot be compared.
    """
    placed = [(imitation, _places(imitation, student, teacher)) for imitation in imitations]
    taps = {place: (student.at(place[0]), teacher.at(place[1])) for _, places in placed for place in places}
    run()
    shapes = {place: (pair[0].read().shape, pair[1].read().shape) for place, pair in taps.items()}
    return tuple(
        Imitator(
            imitation,
            [_Pair(*taps[place], *_fitting(imitation, place, *shapes[place])) for place in places],
        )
        for imitation, places in placed
    )


def _places(imitation: Imitation, student: Taps, teacher: Taps) -> tuple[tuple[str, str], ...]:
    if imitation.places != "auto":
        return imitation.places
    if isinstance(student.source, nn.Module) or isinstance(teacher.source, nn.Module):
        raise ConfigError('recover: imitate: places="auto" needs a Network as teacher; name pairs of places')
    there = {branch.node for branch in teacher.source.branches}
    common = tuple((name, name) for name in dict.fromkeys(b.node for b in student.source.branches) if name in there)
    if not common:
        raise ConfigError(
            'recover: imitate: places="auto" finds no residual sum in both networks; name pairs of places'
        )
    return common


def _fitting(
    imitation: Imitation, place: tuple[str, str], student: torch.Size, teacher: torch.Size
) -> tuple[int, nn.Parameter | None]:
    """The dimension of the channels, and the projection from the student's to the teacher's, where it is needed."""
    where = f"recover: imitate: {place[0]!r} {list(student)} and the teacher's {place[1]!r} {list(teacher)}"
    if len(student) != len(teacher) or len(student) < 2:
        raise ConfigError(f"{where} cannot be compared; name places whose values are alike")
    differ = [dim for dim in range(len(student)) if student[dim] != teacher[dim]]
    if len(differ) > 1 or 0 in differ:
        raise ConfigError(f"{where} differ in more than their width; name places of the same resolution")
    channels = differ[0] if differ else (len(student) - 1 if len(student) == 3 else 1)
    if imitation.kind == "attention":
        if len(student) < 3:
            raise ConfigError(f'{where} have no positions, so no attention map; take kind="features"')
        return channels, None
    if not differ:
        return channels, None
    weight = torch.empty(student[channels], teacher[channels])
    return channels, nn.Parameter(nn.init.orthogonal_(weight))


def _node(network: Network, place: str) -> Node:
    layers = {layer.name: layer.node for layer in network.layers}
    nodes: dict[str, fx.Node] = {node.name: node for node in network.module.graph.nodes}
    found = nodes.get(layers.get(place, place))
    if found is None or found.op in {"output", "get_attr"} or not isinstance(found.meta.get("val"), Tensor):
        raise ConfigError(f"recover: imitate: no layer or graph node {place!r}; layers are {_some(layers)}")
    return found


def _some(names: Any) -> str:
    listed = [name for name in names if name]
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")
