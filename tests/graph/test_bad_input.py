"""Every careless or unlucky module works or is refused in one line with its place, and stays what it was."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bad_modules import Gives, Plain, X, body, fed_by, named, refused, works
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from trimtab.errors import CaptureError
from trimtab.graph import capture, cut, load

# --- weights and buffers ---


def test_shared_weights_and_tied_embeddings() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            return self.head(self.mix(F.relu(self.mix(x))))

    network = works(Tied(), torch.randint(0, 7, (3, 5)), groups=("embed",))
    small = cut(network, {"embed": [1, 4]})
    assert small.module.get_parameter("embed.weight") is small.module.get_parameter("head.weight")


def test_frozen_parameters_and_gradients() -> None:
    model = Plain()
    model(X).sum().backward()
    model.a.weight.requires_grad_(False)
    network = works(model)
    assert not network.module.get_parameter("a.weight").requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_buffer_on_a_cut_axis() -> None:
    class Scaled(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.rand(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)) * self.scale)

    network = works(Scaled())
    assert torch.equal(
        cut(network, {"a": [2, 5]}).module.get_buffer("scale"), network.module.get_buffer("scale")[[2, 5]]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    network = works(Plain().to(dtype), X.to(dtype))
    assert {parameter.dtype for parameter in cut(network, {"a": [1]}).parameters()} == {dtype}


def test_integers_as_weights() -> None:
    class Int8(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.randint(-9, 9, (6, 4), dtype=torch.int8))
            self.register_buffer("scale", torch.rand(6, 1))
            self.b = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(F.linear(x, self.codes.to(x.dtype) * self.scale)))

    works(Int8(), groups=("codes",))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def old_weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    ("change", "group"),
    [
        (parametrizations.weight_norm, "a.parametrizations.weight.original1"),
        (parametrizations.spectral_norm, "a.parametrizations.weight.original"),
        (parametrizations.orthogonal, "a.parametrizations.weight.0.base"),
        (old_weight_norm, "a.weight_v"),
        (
            lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
            "a.parametrizations.weight.original",
        ),
        (lambda layer: prune.random_unstructured(layer, "weight", 0.5), "a.weight_orig"),
    ],
)
def test_parametrized_modules(change: Callable[[nn.Module], Any], group: str) -> None:
    model = Plain()
    change(model.a)
    works(model, groups=(group,))


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_weights_that_cannot_be_used() -> None:
    model = Plain()
    model.a.weight.data[1, 2] = float("nan")
    refused(model, r"parameter 'a.weight': values must be finite, 1 of 24")
    model = Plain()
    model.a.to(torch.complex64)
    refused(model, r"parameter 'a.weight': must be real, is torch.complex64")
    lazy = nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 2))
    with pytest.raises(Exception, match=r"parameter '0.weight': has no shape yet; run the lazy module"):
        capture(lazy, X)
    lazy(X)
    works(lazy, groups=("0",))
    refused(Plain().double(), r"bad_modules.py:\d+ in forward: a linear must get the type of its weight, torch.float64")


def test_weights_without_numbers() -> None:
    network = capture(Plain().to("meta"), X.to("meta"))
    small = cut(network, {"a": [0, 3]})
    assert small.module.get_parameter("b.weight").shape == (2, 2)
    assert small(X.to("meta")).shape == (3, 2)
    refused(Plain().to("meta"), "Expected all tensors to be on the same device")


# --- modes, hooks and wrappers ---


def test_training_mode_and_statistics() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2)).train()
    model[1].eval()
    works(model, groups=("0",))
    assert (model.training, model[1].training) == (True, False)


class Writes(Plain):
    """Counts in a buffer, and sets attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        self.seen.append(3)
        self.last = x
        return super().forward(x)


def test_a_forward_that_writes() -> None:
    model = Writes()
    network = capture(model, X)
    assert (model.count.item(), model.seen, hasattr(model, "last")) == (0, [], False)
    network(X)
    assert network.module.get_buffer("count").item() == 1


def hooked() -> nn.Module:
    model = Plain()
    model.a.register_forward_hook(lambda module, inputs, output: output * 2)
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    model.register_full_backward_hook(lambda module, inputs, outputs: None)
    return model


class Undone(Plain):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize(
    ("make", "group"),
    [
        (hooked, "a"),
        (Undone, "a"),
        (lambda: torch.compile(Plain()), "_orig_mod.a"),
        (lambda: nn.DataParallel(Plain()), "module.a"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_hooks_and_wrappers(make: Callable[[], nn.Module], group: str) -> None:
    works(make(), groups=(group,))


def test_what_is_no_module_of_python_code() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted, traced, inside = torch.jit.script(Plain()), torch.jit.trace(Plain(), X), Plain()
        inside.a = torch.jit.script(inside.a)
    for model in (scripted, traced, inside):
        with pytest.raises(CaptureError, match=r"must be a module of Python code, got \w+ of TorchScript; give"):
            capture(model, X)
    for thing, kind in ((Plain, "Plain"), (None, "NoneType"), (torch.relu, "builtin")):
        refused(thing, f"model: must be a torch.nn.Module, got {kind}")
    refused(nn.ModuleList([nn.Linear(4, 4)]), 'missing the required "forward"')


# --- names ---


@pytest.mark.parametrize("kind", ["module", "parameter", "key"])
@pytest.mark.parametrize(
    "name", ["forward_", "self", "torch", "print", "nan", "args", "ümlaut", "0", "a-b", "with space", "a/b"]
)
def test_strange_names_work_and_are_saved(name: str, kind: str, tmp_path: Path) -> None:
    network = works(named(name, kind), groups=None)
    network.save(tmp_path / "network")
    assert load(tmp_path / "network").fingerprint == network.fingerprint


@pytest.mark.parametrize("name", ["class", "None", "lambda", "graph", "code", "_graph", 'a"b', "a\nb", "a\\b"])
def test_names_that_cannot_become_code(name: str) -> None:
    refused(named(name, "module"), "Named: .*name.*rename it")
    if name not in ("graph", "code", "_graph"):
        refused(named(name, "key"), "Named: .*name.*rename it")
    else:
        works(named(name, "key"), groups=None)


@pytest.mark.parametrize("name", ["x", "input", "print", "type", "args", "kwargs", "mod", "relu", "a_weight", "linear"])
def test_names_of_inputs(name: str) -> None:
    works(fed_by(name))
    if name != "mod":  # torch calls modules with an argument of that name
        works(fed_by(name), {name: X})


@pytest.mark.parametrize("name", ["torch", "pytree", "fx_pytree", "inf"])
def test_names_of_inputs_that_hide_words_of_the_code(name: str) -> None:
    refused(fed_by(name), rf"Fed.forward: an input must not be called '{name}'.*rename the argument")


# --- inputs ---


class Many(Plain):
    def forward(self, *xs: Tensor, **more: Tensor) -> Tensor:
        return body(self, sum((*xs, *more.values()), torch.zeros(())))


class Some(Plain):
    def forward(self, x: Tensor, y: Tensor | None = None, times: int = 2, **more: Tensor) -> Tensor:
        return body(self, x if y is None else x + y) * times + sum(more.values(), torch.zeros(())).sum() * 0


@pytest.mark.parametrize("example", [X, (X, X + 1), (X, X, X), {"x": X, "other": X + 1}])
def test_any_number_of_inputs(example: Any) -> None:
    works(Many(), example)
    works(Some(), (X, X + 1) if isinstance(example, tuple) else example)


@pytest.mark.parametrize("example", [({"x": X, "y": (X,)},), ([X, X],)])
def test_nested_inputs(example: Any) -> None:
    works(Gives(lambda model, x: body(model, x["x"] + x["y"][0] if isinstance(x, dict) else x[0] + x[1])), example)


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (X[:0], "dimension 0 must be the batch"),
        ((X, X[:2]), "given every|give every input as many rows"),
        ({"x": X, "y": 3}, "must be tensors, got Tensor, int"),
        (X.to_sparse(), "must be dense tensors"),
        (X[:, :3], "cannot be captured|shape"),
        (X.long(), "type of its weight, torch.float32, got torch.int64"),
    ],
)
def test_examples_that_do_not_fit(example: Any, words: str) -> None:
    refused(Some(), words, example)


def test_one_row_is_enough() -> None:
    works(Plain(), X[:1])


def test_a_batch_that_the_code_fixes() -> None:
    refused(Gives(lambda model, x: body(model, x).reshape(3, -1)), "the batch size must stay free")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_axes_of_size_zero() -> None:
    works(nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 2)), groups=())
    works(Gives(lambda model, x: (body(model, x), x[:, :0])))


def test_a_very_wide_layer() -> None:
    works(nn.Sequential(nn.Linear(4, 100_000), nn.ReLU(), nn.Linear(100_000, 2)), groups=("0",))


# --- outputs ---

OUTPUTS: dict[str, tuple[Callable[[Plain, Tensor], Any], tuple[str, ...]]] = {
    "nested": (lambda m, x: {"a": [body(m, x), (x,)], "b": {"c": body(m, x)}}, ("a",)),
    "none": (lambda m, x: (body(m, x), None), ("a",)),
    "nothing": (lambda m, x: None, ()),
    "empty": (lambda m, x: (), ()),
    "numbers": (lambda m, x: {"y": body(m, x), "n": 3, "f": 2.5, "s": "text"}, ("a",)),
    "integers": (lambda m, x: body(m, x).argmax(1), ("a",)),
    "rows": (lambda m, x: (body(m, x), x.shape[0]), ("a",)),
    "input": (lambda m, x: (body(m, x), x), ("a",)),
    "only the input": (lambda m, x: x, ()),
    "parameter": (lambda m, x: (body(m, x), m.a.weight), ()),
    "twice": (lambda m, x: (body(m, x),) * 2, ("a",)),
    "scalar": (lambda m, x: body(m, x).sum(), ("a", "b")),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_any_kind(name: str) -> None:
    make, groups = OUTPUTS[name]
    if name == "twice":
        works(Gives(lambda model, x: (y := body(model, x), y)), groups=groups)
    else:
        works(Gives(make), groups=groups)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(), nn.Identity()])
def test_no_parameters_at_all(model: nn.Module) -> None:
    works(model, groups=())


def test_an_empty_list_of_modules() -> None:
    model = Plain()
    model.more = nn.ModuleList()
    works(model)


# --- code that fails ---


class Raises(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("no such\nthing")


class Picks(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[x.sum(1) > 0][: int(x.sum())]


@pytest.mark.parametrize("model", [Raises(), Picks()])
def test_code_that_fails_is_named(model: nn.Module) -> None:
    refused(model, r"test_bad_input.py:\d+ in forward: ")


def test_an_exit_in_the_code_is_the_users_own() -> None:
    model = Gives(lambda model, x: sys.exit(3))
    with pytest.raises(SystemExit):
        capture(model, X)
    assert model.training
