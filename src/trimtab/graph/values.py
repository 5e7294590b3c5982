"""What the analysis knows about a value of the graph, and what a rule is given to work with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.graph.axes import Axis, Dim, Freeze, MisfitError, constant, find, freeze, fresh, leaves, size, unify
from trimtab.graph.kept import Kept
from trimtab.graph.limits import Limit

Origin = tuple[int, int]
"""A dimension of a parameter or buffer: (identity of the tensor, dimension)."""

Fix = Callable[[Node, Kept], None]
"""Re-emits a node's arguments in the cut graph."""


@dataclass
class Value:
    """A tensor: its dimensions, and where a removed unit is *not* zero in the masked network.

    `alive` holds the axes along which the value at a removed unit may be non-zero; a value and its views share the set.
    `origin` names the parameter's dimension behind each dimension, where the value is a parameter seen through
    transposes, or a weight computed from it. `const` says that no input of the network reaches it, or only to pick what
    is seen of it. `index` is the dimension whose positions the numbers are, where they are such: after a cut they count
    the kept positions. `alive_by_dim`, where given, is `alive` for what is removed along one of the dimensions alone.
    """

    dims: tuple[Dim, ...]
    alive: set[Axis] = field(default_factory=set)
    origin: tuple[Origin | None, ...] = ()
    const: bool = False
    index: Dim | None = None
    alive_by_dim: tuple[frozenset[Axis], ...] = ()

    def along(self, dim: int) -> "Value":
        """The same numbers, of which only what is removed along one dimension is taken for zero."""
        return replace(self, alive=set(self.alive_by_dim[dim])) if self.alive_by_dim else self

    def view(self, dims: Sequence[Dim]) -> "Value":
        """The same numbers, seen with other dimensions."""
        return Value(tuple(dims), self.alive, index=self.index)

    def new(self, dims: Sequence[Dim] | None = None, alive: Iterable[Axis] = ()) -> "Value":
        """Fresh numbers that are zero wherever these are, except along `alive`."""
        origin = self.origin if dims is None and self.const else ()
        return Value(self.dims if dims is None else tuple(dims), {*self.alive, *alive}, origin)


@dataclass(frozen=True)
class Count:
    """An integer read from a tensor's size; after a cut it follows the dimension by itself."""

    dim: Dim


def axes_of(dims: Iterable[Dim]) -> set[Axis]:
    """Every atom of several dimensions that may still be cut."""
    return {atom for dim in dims for atom in leaves(dim) if atom.frozen is None}


def atoms(axes: Iterable[Axis]) -> set[Axis]:
    """The atoms behind axes that may have been merged or split since."""
    return {atom for axis in axes for atom in leaves((find(axis),))}


@dataclass(frozen=True)
class OverKept:
    """An operator that cannot equal its masked self: its proof lets the reference see the kept positions only.

    `mixed` are the dimensions along which a cut has that effect, `tensors` the dimensions of its tensor arguments by
    name, `output` those of its output, `fix` its re-emission.
    """

    mixed: tuple[Dim, ...]
    tensors: dict[str, tuple[Dim, ...]]
    output: tuple[Dim, ...]
    fix: Fix


@dataclass(frozen=True)
class Hidden:
    """A choice along a dimension, which its proof makes among the kept positions only.

    There `fill` stands at the removed positions of dimension `at` of the argument `name`, whose dimensions are `dims`.
    """

    name: str
    dims: tuple[Dim, ...]
    at: int
    fill: float


@dataclass
class Facts:
    """What all rules together find out."""

    values: dict[Node, Any] = field(default_factory=dict)
    fixes: list[tuple[Node, Fix]] = field(default_factory=list)
    produced: list[tuple[Dim, Origin | None]] = field(default_factory=list)
    roles: dict[Origin, str] = field(default_factory=dict)
    sums: list[tuple[Dim, tuple[frozenset[Axis], ...], Freeze]] = field(default_factory=list)
    divisors: list[tuple[Value, Freeze]] = field(default_factory=list)
    over_kept: dict[Node, OverKept] = field(default_factory=dict)
    hidden: dict[Node, Hidden] = field(default_factory=dict)
    limits: list[tuple[Dim, Limit, Freeze]] = field(default_factory=list)
    alone: list[tuple[Dim, Freeze]] = field(default_factory=list)


class Call:
    """One call of an operator, as its rule sees it: arguments by schema name, dimensions, and ways to state facts."""

    def __init__(self, node: Node, facts: Facts, source: str) -> None:
        self.node = node
        self.facts = facts
        self.source = source
        self.operator = str(node.target)
        self.arguments = bind(node)
        self.fixes: list[tuple[Node, Fix]] = []

    def why(self, reason: str) -> Freeze:
        """A reason to freeze that names this operator and its place."""
        return Freeze(operator=self.operator, reason=reason, source=self.source)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of all output tensors on the example."""
        return [tuple(t.shape) for t in pytree.tree_leaves(self.node.meta.get("val")) if isinstance(t, Tensor)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the only output."""
        return self.shapes[0]

    def raw(self, name: str) -> Any:
        """The argument as it stands in the graph, or its default."""
        return self.arguments[name]

    def has(self, name: str) -> bool:
        """Whether the argument is given and not None."""
        return self.arguments.get(name) is not None

    def value(self, name: str) -> Value:
        """The tensor argument's facts. Raises: MisfitError when it is none."""
        found = self.facts.values.get(self.raw(name)) if isinstance(self.raw(name), Node) else None
        if not isinstance(found, Value):
            raise MisfitError(f"{name} is not a tensor of the graph")
        return found

    def maybe(self, name: str) -> Value | None:
        """The tensor argument's facts, or None for None, a number or an argument that the operator lacks."""
        raw = self.arguments.get(name)
        found = self.facts.values.get(raw) if isinstance(raw, Node) else None
        return found if isinstance(found, Value) else None

    def list(self, name: str) -> list[Value]:
        """A list of tensors. Raises: MisfitError when one is none."""
        raw = self.raw(name)
        found = [value for item in raw if isinstance(value := self.facts.values.get(item), Value)]
        if len(found) != len(raw):
            raise MisfitError(f"{name} is not a list of tensors of the graph")
        return found

    def integer(self, name: str) -> int:
        """A constant integer. Raises: MisfitError when it is computed."""
        value = self.raw(name)
        if not isinstance(value, int):
            raise MisfitError(f"{name} is computed")
        return value

    def axis(self, name: str, rank: int) -> int:
        """A constant dimension number, made non-negative."""
        return self.integer(name) % max(rank, 1)

    def unify(self, a: Dim, b: Dim) -> None:
        """State that two dimensions are the same."""
        unify(a, b, self.why("shapes that meet here cannot be cut alike"))

    def freeze(self, dims: Iterable[Dim], reason: str) -> None:
        """Forbid cutting these dimensions."""
        for dim in dims:
            freeze(dim, self.why(reason))

    def constant(self, n: int, reason: str = "this size is fixed by the operator") -> Dim:
        """A fresh dimension that is never cut."""
        return constant(n, self.why(reason))

    def fresh(self, n: int) -> Dim:
        """A fresh dimension that may be cut when it meets one that a layer produces."""
        return fresh(n)

    def role(self, value: Value, dim: int, role: str) -> None:
        """State what a parameter's dimension is for; "out" wins over what was said before."""
        if value.origin and value.origin[dim] is not None:
            key = value.origin[dim]
            assert key is not None
            if role == "out" or key not in self.facts.roles:
                self.facts.roles[key] = role

    def produce(self, value: Value, dim: int) -> None:
        """State that a constant tensor makes new channels along `dim`: they may be cut."""
        if value.const:
            self.role(value, dim, "out")
            self.facts.produced.append((value.dims[dim], value.origin[dim] if value.origin else None))

    def contract(self, dim: Dim, factors: Sequence[Value], reason: str) -> None:
        """State that products of `factors` are summed along `dim`: one must vanish at what is removed, else inexact."""
        self.facts.sums.append((dim, tuple(frozenset(factor.alive) for factor in factors), self.why(reason)))

    def inexact(self, dims: Iterable[Dim], reason: str) -> None:
        """State that after a cut along `dims` no argument makes the operator equal to its masked self."""
        for dim in dims:
            self.facts.sums.append((dim, (frozenset(axes_of([dim])),), self.why(reason)))

    def look_up(self, dim: Dim, indices: Value, reason: str) -> None:
        """State that numbers pick positions of a dimension: it is the one that they index, or is frozen."""
        if indices.index is not None and size(indices.index) == size(dim):
            self.unify(indices.index, dim)
        else:
            self.freeze([dim] if indices.index is None else [dim, indices.index], reason)

    def alone(self, dim: Dim, part: Dim) -> None:
        """Say why no group is left of a dimension whose positions are taken one by one, as `part` is."""
        if size(part) == 1:
            reason = "its positions are taken one by one: a unit could only go together with all that it feeds"
            self.facts.alone.append((dim, self.why(reason)))

    def limit(self, dim: Dim, limit: Limit, reason: str) -> None:
        """State what a dimension's number of positions must be; where no cut keeps to it, it is frozen."""
        self.facts.limits.append((dim, limit, self.why(reason)))

    def divide(self, value: Value) -> None:
        """State that the operator is singular at zero: axes along which `value` vanishes are frozen at the end."""
        self.facts.divisors.append(
            (Value(value.dims, set(value.alive)), self.why("a removed unit would divide by zero"))
        )

    def fix(self, fix: Fix) -> None:
        """Register a re-emission of this node's arguments."""
        self.fixes.append((self.node, fix))


def bind(node: Node) -> dict[str, Any]:
    """Arguments by schema name, defaults included; positional names for what has no schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(i): arg for i, arg in enumerate(node.args)} | dict(node.kwargs)
    out = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            out[argument.name] = node.args[i]
        else:
            out[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return out


def set_argument(node: Node, name: str, value: Any) -> None:
    """Set one argument by schema name; what already equals it is left as it stands."""
    if bind(node)[name] == value:
        return
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    if names.index(name) < len(node.args):
        node.update_arg(names.index(name), value)
    else:
        node.update_kwarg(name, value)
