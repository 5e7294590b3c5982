"""The reference of a proof: the original network whose norms and choices see the kept units only."""

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, size
from trimtab.graph.kept import Kept
from trimtab.graph.network import Network
from trimtab.graph.values import Hidden, OverKept, bind, set_argument

aten = torch.ops.aten


def norms_over_kept(network: Network, copy: Network, kept: Kept) -> None:
    """Rewire `copy`, a clone of `network`: a norm over a cut axis picks the kept units, and puts zeros for the others.

    A choice along a cut axis cannot fall on the others.
    Everything keeps its full size; `copy` is for running only.
    """
    twin = dict(zip(network.module.graph.nodes, copy.module.graph.nodes, strict=True))
    for node, norm in network.analysis.over_kept.items():
        if any(kept.changed(dim) for dim in norm.mixed):
            _rewire(copy, twin[node], norm, kept)
    for node, choice in network.analysis.hidden.items():
        if kept.changed(choice.dims[choice.at]):
            _hide(copy, twin[node], choice, kept)
    copy.module.graph.lint()
    copy.module.recompile()


def _rewire(copy: Network, node: Node, norm: OverKept, kept: Kept) -> None:
    with node.graph.inserting_before(node):
        for name, dims in norm.tensors.items():
            picked = bind(node)[name]
            for i, dim in enumerate(dims):
                if kept.changed(dim):
                    indices = _constant(copy, node, kept.positions(dim))
                    picked = node.graph.call_function(aten.index_select.default, (picked, i, indices))
            set_argument(node, name, picked)
    norm.fix(node, kept)
    users = list(node.users)
    out = node
    for i, dim in enumerate(norm.output):
        if kept.changed(dim):
            out = _spread(copy, out, i, (dim, len(norm.output)), kept)
    for user in users:
        user.replace_input_with(node, out)


def _hide(copy: Network, node: Node, choice: Hidden, kept: Kept) -> None:
    dim = choice.dims[choice.at]
    gone = torch.ones(size(dim), dtype=torch.bool)
    gone[kept.positions(dim)] = False
    with node.graph.inserting_before(node):
        where = _constant(copy, node, gone.view([-1 if i == choice.at else 1 for i in range(len(choice.dims))]))
        filled = node.graph.call_function(aten.masked_fill.Scalar, (bind(node)[choice.name], where, choice.fill))
    set_argument(node, choice.name, filled)


def _spread(copy: Network, node: Node, at: int, of: tuple[Dim, int], kept: Kept) -> Node:
    """Zeros back at the removed positions of dimension `at`: a zero is appended, and picked for each of them."""
    dim, rank = of
    where = torch.full((size(dim),), kept.size(dim), dtype=torch.long)
    where[kept.positions(dim)] = torch.arange(kept.size(dim))
    pad = [0, 0] * (rank - 1 - at) + [0, 1]
    with node.graph.inserting_after(node):
        padded = node.graph.call_function(aten.constant_pad_nd.default, (node, pad, 0.0))
    with node.graph.inserting_after(padded):
        indices = _constant(copy, node, where)
    with node.graph.inserting_after(indices):
        return node.graph.call_function(aten.index_select.default, (padded, at, indices))


def _constant(copy: Network, node: Node, tensor: torch.Tensor) -> Node:
    name = f"_kept_{sum(1 for key in copy.module._buffers if key.startswith('_kept_'))}"
    copy.module.register_buffer(name, tensor.to(copy.device), persistent=False)
    return node.graph.get_attr(name)
