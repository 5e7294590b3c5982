"""A network that rounds already is cut as it would be without: the same groups, and scales that go with their rows."""

import pytest
import torch

from int8_nets import INTEGER_NETS, MIXED_NETS, quantized, random_inputs
from trimtab.graph import Network, cut
from trimtab.graph.surgery import masks
from trimtab.graph.verify import compare
from trimtab.quant import WeightFakeQuantize
from trimtab.tasks.task import call

NETS = INTEGER_NETS | MIXED_NETS
CHOSEN = (
    "groups, depthwise, 1x1",
    "option A",
    "concatenation",
    "squeeze and excite",
    "linear with batch norm",
    "shared weight",
)


@pytest.fixture(params=CHOSEN)
def rounded(request: pytest.FixtureRequest) -> tuple[Network, list[tuple[int, ...]]]:
    """With scales that no fit would give: they have been learned."""
    make, shapes = NETS[request.param]
    example = random_inputs(shapes, 5)
    network = quantized(make(), example if len(example) > 1 else example[0])
    with torch.no_grad():
        for module in network.module.modules():
            if isinstance(module, WeightFakeQuantize):
                module.scale.mul_(torch.rand_like(module.scale) + 0.5)
    return network, shapes


def test_the_cut_network_is_the_masked_one(rounded: tuple[Network, list[tuple[int, ...]]]) -> None:
    network, shapes = rounded
    kept = {}
    for group in network.groups:
        number = max(group.least, group.width // 2 // group.multiple_of * group.multiple_of)
        kept[group.name] = torch.randperm(group.width)[:number].tolist()
    masked = network.clone()
    with torch.no_grad():
        for name, mask in masks(network, kept).items():
            masked.module.get_parameter(name).mul_(mask)
        smaller, inputs = cut(network, kept), random_inputs(shapes, 9)
        assert compare(call(smaller, inputs), call(masked, inputs))[0] < 1e-5
    for name, module in smaller.module.named_modules():
        if isinstance(module, WeightFakeQuantize):
            before = network.module.get_submodule(name)
            assert isinstance(before, WeightFakeQuantize)
            assert module.zero_point.shape == module.scale.shape
            assert set(module.scale.tolist()) <= set(before.scale.tolist())
            assert module.scale.requires_grad


def test_members_of_groups_are_weights_only(rounded: tuple[Network, list[tuple[int, ...]]]) -> None:
    network, _ = rounded
    assert network.groups
    names = {member.parameter for group in network.groups for member in group.members}
    assert not {name for name in names if "fake_quantize" in name}
