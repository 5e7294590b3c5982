"""What is to be stored in few bits, and how: the weights of a network that a target can store, and their schemes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Literal, overload

from torch import Tensor

from trimtab.apply import apply
from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.graph.analysis import tensor_names
from trimtab.graph.layers import parameter_of
from trimtab.plan import PER_TENSOR, LayerDecision, Plan, Scheme, Target
from trimtab.plan.plan import Solver
from trimtab.quant.ranges import suited_to
from trimtab.quant.stored import weight_reads
from trimtab.search.quantizing.ends import first_and_last

Learned = Literal["lsq", "lsq_plus", "pact"]
Granularity = tuple[int, int] | Literal["network"]

_AT_THE_ENDS = "symmetric"
_TABLES = "embedding"  # read by index: what reads them has no activation


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One weight that the target can store: its `name` in a plan, and the operator that reads it.

    `dynamic`: its activations get the range of each tensor at run time. `at_end`: no other is before or after it.
    """

    name: str
    parameter: str
    family: str
    dynamic: bool
    at_end: bool


@dataclass(frozen=True, kw_only=True)
class Asked:
    """`wanted` are bits of weights on the `grid`; at the ends are `at_least` so many. `activations`: bits or None."""

    network: Network
    target: Target
    grid: str
    granularity: Granularity
    wanted: frozenset[int | None]
    activations: int | None
    dynamic: bool
    keep: frozenset[str]
    at_least: int

    def check(self) -> None:
        """Raises: ConfigError for nothing to store, or a layer to keep that is not there."""
        if self.wanted == {None} and self.activations is None:
            raise ConfigError("quantize: neither weights nor activations are to be in few bits; give one its bits")
        names = list(dict.fromkeys(read.name for read in weight_reads(self.network.module)))
        for name in sorted(self.keep.difference(names)):
            near = get_close_matches(name, names, n=3, cutoff=0.4) or names[:5]
            raise ConfigError(f"quantize: keep: unknown layer {name!r}; near matches: {', '.join(near) or 'none'}")
        if not self.weights:
            raise ConfigError(
                f"quantize: every layer stays in float (kept, or without an integer kernel on {self.target.name!r}); "
                "keep fewer, or choose another target"
            )

    @cached_property
    def weights(self) -> list[Stored]:
        """In graph order, a shared one once."""
        names = tensor_names(self.network.module)
        reads = list(weight_reads(self.network.module))
        ends = first_and_last(self.network.module.graph, {read.reader for read in reads})
        found: dict[str, Stored] = {}
        for read in reads:
            dynamic = self._dynamic(read.family)
            if dynamic is None or read.name in self.keep or read.name in found:
                continue
            found[read.name] = Stored(
                name=read.name,
                parameter=str(parameter_of(self.network.module, read.weight, names)),
                family=read.family,
                dynamic=dynamic,
                at_end=read.reader in ends,
            )
        return list(found.values())

    def _dynamic(self, family: str) -> bool | None:
        """Whether activations of an operator are dynamic; None where the target has no kernel, and it stays float."""
        able = self.target.schemes_by_operator
        if family == _TABLES or self.activations is None:
            return False if family in able and self.wanted != {None} else None
        offered = [dynamic for dynamic in (self.dynamic, not self.dynamic) if _key(family, dynamic) in able]
        return offered[0] if offered else None

    @overload
    def raised(self, weight: Stored, bits: int) -> int: ...
    @overload
    def raised(self, weight: Stored, bits: None) -> None: ...
    def raised(self, weight: Stored, bits: int | None) -> int | None:
        """The bits of a weight, or of its activations, which may be at an end."""
        return bits if bits is None or not weight.at_end else max(bits, self.at_least)

    def scheme(self, bits: int | None) -> Scheme | None:
        """How a weight is stored."""
        if bits is None:
            return None
        grid = self.grid if bits in self.wanted else _AT_THE_ENDS
        return Scheme(grid=grid, bits=bits, granularity=self.granularity)

    def activation(self, weight: Stored) -> Scheme | None:
        """How what a weight is multiplied with is stored."""
        if self.activations is None or weight.family == _TABLES:
            return None
        bits = self.raised(weight, self.activations)
        return Scheme(grid="affine", bits=bits, granularity=PER_TENSOR, dynamic=weight.dynamic)

    def plan(
        self, bits: Mapping[str, int | None], *, seed: int, ranges: str | None, learned: Learned, solver: Solver
    ) -> Plan:
        """The plan with these bits of weights. `ranges`: None, as suits the bits of activations."""
        layers = []
        for weight in self.weights:
            activation = self.activation(weight)
            layers.append(
                LayerDecision(
                    layer=weight.name,
                    weight=self.scheme(bits[weight.name]),
                    activation=activation,
                    ranges=ranges or suited_to(activation.bits if activation else 8),
                    learned=learned,
                    solver=solver,
                )
            )
        return Plan(fingerprint=self.network.fingerprint, target=self.target.name, seed=seed, layers=tuple(layers))

    def rounded(self, weights: Sequence[Stored], bits: int) -> dict[str, Tensor]:
        """These weights in so many bits, by name. Raises: PlanError for what the target cannot."""
        decisions = tuple(
            LayerDecision(layer=weight.name, weight=self.scheme(bits), activation=self.activation(weight))
            for weight in weights
        )
        plan = Plan(fingerprint=self.network.fingerprint, target=self.target.name, layers=decisions)
        floating = apply(self.network, plan).dequantize().module
        return {weight.name: floating.get_parameter(weight.parameter).detach() for weight in weights}


def _key(family: str, dynamic: bool) -> str:
    return f"dynamic_{family}" if dynamic else family
