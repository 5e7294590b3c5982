"""Post-dominators against brute force; and that branches are found by them in no time."""

import time

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from trimtab.graph.depth.branches import find_branches
from trimtab.graph.depth.dominance import PostDominators


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=12))
def test_post_dominators_are_what_cuts_a_node_off_from_every_end(wiring: list[list[int]]) -> None:
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    for inputs in wiring:
        args = tuple(nodes[i % len(nodes)] for i in inputs) if nodes else ()
        nodes.append(graph.call_function(len, args))
    tree = PostDominators(graph, {})
    for node in nodes:
        cut_off = [other for other in nodes if other is node or not reaches_an_end(other, without=node)]
        assert tree.inside(node) == cut_off


def reaches_an_end(node: fx.Node, without: fx.Node) -> bool:
    if node is without:
        return False
    return not node.users or any(reaches_an_end(user, without) for user in node.users)


def chain(blocks: int, nested: bool) -> fx.GraphModule:
    """Residual blocks that all read one more input, one after the other or within each other, as if captured."""
    aten = torch.ops.aten
    root = nn.Module()
    graph = fx.Graph()
    x, mask = graph.placeholder("x"), graph.placeholder("mask")
    opened = []
    for i in range(blocks):
        setattr(root, f"block{i}", nn.Linear(2, 2))
        weight, bias = graph.get_attr(f"block{i}.weight"), graph.get_attr(f"block{i}.bias")
        y = graph.call_function(aten.linear.default, (x, weight, bias))
        y = graph.call_function(aten.tanh.default, (graph.call_function(aten.mul.Tensor, (y, mask)),))
        opened.append(x)
        x = y if nested else graph.call_function(aten.add.Tensor, (x, y))
    for skip in reversed(opened if nested else []):
        x = graph.call_function(aten.add.Tensor, (skip, x))
    graph.output(x)
    module = fx.GraphModule(root, graph)
    for node in module.graph.nodes:
        node.meta["val"] = torch.empty(3, 2)
    return module


def test_a_long_chain_is_no_trouble() -> None:
    module = chain(1000, nested=False)
    start = time.process_time()
    found = find_branches(module)
    assert time.process_time() - start < 2
    assert [branch.name for branch in found] == [f"block{i}" for i in range(1000)]


def test_deep_nesting_is_no_trouble() -> None:
    found = find_branches(chain(100, nested=True))
    assert [len(branch.inside) for branch in found] == list(range(100))
