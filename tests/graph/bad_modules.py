"""Modules that a careless or an unlucky user gives, and the proof that capture leaves the caller's module alone."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from trimtab.errors import TrimtabError
from trimtab.graph import Network, capture, cut, verify
from trimtab.tasks.task import call

X = torch.randn(3, 4)


class Plain(nn.Module):
    """4 features to 6 to 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Any:
        return self.b(F.relu(self.a(x)))


class Gives(Plain):
    """What a function makes of the module and the input."""

    def __init__(self, outputs: Callable[[Plain, Any], Any]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Any) -> Any:
        return self.outputs(self, x)


def body(model: Plain, x: Tensor) -> Tensor:
    return model.b(F.relu(model.a(x)))


def named(name: str, kind: str) -> nn.Module:
    """A network of which a submodule, a parameter or a key is called so."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.Linear(6, 2)
            match kind:
                case "module":
                    self.add_module(name, nn.Linear(4, 6))
                case "key":
                    self.heads = nn.ModuleDict({name: nn.Linear(4, 6)})
                case "parameter":
                    self.register_parameter(name, nn.Parameter(torch.rand(6, 4)))

        def forward(self, x: Tensor) -> Tensor:
            match kind:
                case "module":
                    x = getattr(self, name)(x)
                case "key":
                    x = self.heads[name](x)
                case "parameter":
                    x = F.linear(x, getattr(self, name))
            return self.b(F.relu(x))

    return Named()


def fed_by(name: str) -> nn.Module:
    """A network whose only input is called so."""
    scope: dict[str, Any] = {"body": body}
    exec(f"def forward(self, {name}):\n    return body(self, {name})", scope)
    return type("Fed", (Plain,), {"forward": scope["forward"]})()


# --- the caller's module ---


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything of a module: tensors bit for bit, their versions and gradients, flags, attributes, hooks, tables."""
    found: dict[str, Any] = {
        name: (id(module), type(module), _plain(vars(module)))
        for name, module in model.named_modules(remove_duplicate=False)
    }
    return found | {"random": torch.get_rng_state().tolist(), "grad": torch.is_grad_enabled()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        bits = () if value.is_meta else value.detach().contiguous().view(-1).view(torch.uint8).tolist()
        version = None if value.is_inference() else value._version
        return (
            id(value),
            value.dtype,
            value.shape,
            value.stride(),
            value.requires_grad,
            version,
            _plain(value.grad) if value.is_leaf else None,
            bits,
        )
    if isinstance(value, dict):
        return id(value), [(key, _plain(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, set)):
        return id(value), [_plain(item) for item in value]
    return value if isinstance(value, (int, float, str, type(None))) else id(value)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    before = state_of(model)
    yield
    assert state_of(model) == before


def works(model: nn.Module, example: Any = X, groups: tuple[str, ...] | None = ("a",)) -> Network:
    """Captured, cut and proved, the caller's module untouched; its groups are those, or one whatever its name."""
    with warnings.catch_warnings(), untouched(model):
        network = capture(model, example)
        kept = {group.name: range(group.width // 2) for group in network.groups}
        small = cut(network, kept)
    assert len(kept) == 1 if groups is None else tuple(kept) == groups, (network.groups, network.frozen)
    call(small, example)
    proof = verify(network, kept)
    assert proof.exact, proof
    evaluated = {name: module.training for name, module in model.named_modules()}
    model.eval()
    expected, found = (pytree.tree_leaves(call(one, example)) for one in (model, network))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    for name, module in model.named_modules():
        module.training = evaluated[name]
    kept_names = dict(network.named_parameters())  # what no output depends on is gone
    assert list(kept_names) == [name for name, _ in model.named_parameters() if name in kept_names]
    assert groups is not None or len(kept_names) == len(dict(model.named_parameters()))
    return network


def refused(model: Any, words: str, example: Any = X) -> None:
    """Refused in one line that says so, the caller's module untouched."""
    state = state_of(model) if isinstance(model, nn.Module) else None
    with pytest.raises(TrimtabError, match=words) as caught:
        capture(model, example)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value), "no remedy"
    assert state is None or state_of(model) == state
