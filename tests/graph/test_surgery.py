"""Plans that do not fit are refused; what a cut makes is clean; verify sees a cut that is wrong."""

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F
from graph_nets import CifarResNet, LeNet, randomize
from torch import Tensor, nn

from trimtab.errors import PlanError
from trimtab.graph import Network, capture, cut, verify
from trimtab.graph.surgery import masks


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"conv9": [0]}, "unknown group 'conv9'"),
        ({"conv1": []}, "at least 1 of 6 units"),
        ({"conv1": [0, 6]}, "units are 0 to 5, got 6"),
        ({"conv1": [-1]}, "got -1"),
        ({"conv1": [1, 1]}, "kept twice"),
    ],
)
def test_plans_that_do_not_fit_are_refused(kept: dict[str, list[int]], words: str) -> None:
    network = capture(LeNet(), torch.randn(2, 1, 28, 28))
    with pytest.raises(PlanError, match=words):
        cut(network, kept)
    with pytest.raises(PlanError, match=words):
        verify(network, kept)


def test_the_cut_network_is_clean_and_the_original_untouched() -> None:
    network = capture(randomize(CifarResNet(8, (4, 8, 8))), torch.randn(2, 3, 8, 8))
    before = copy.deepcopy(network.state_dict())
    small = cut(network, {"conv1": [3, 1], "layer2.0.conv1": [0]})
    assert small.module.get_parameter("conv1.weight").shape == (2, 3, 3, 3)
    assert torch.equal(small.module.get_parameter("conv1.weight"), before["conv1.weight"][[1, 3]])
    assert torch.equal(small.module.get_buffer("bn1.running_mean"), before["bn1.running_mean"][[1, 3]])
    assert all(isinstance(p, nn.Parameter) and p.is_contiguous() and p.is_leaf for p in small.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert small.module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)[0].meta[
        "val"
    ].shape == (3, 2, 8, 8)
    assert "stack_trace" in list(small.module.graph.nodes)[-2].meta
    assert small.source(list(small.module.graph.nodes)[-2]).startswith("graph_nets.py:")


def test_written_out_sizes_follow() -> None:
    network = capture(LeNet(), torch.randn(2, 1, 28, 28))
    small = cut(network, {"conv2": [0, 5, 9]})
    view = small.module.graph.find_nodes(op="call_function", target=torch.ops.aten.reshape.default)[0]
    assert view.args[1] == [-1, 3 * 4 * 4]
    assert small.module.get_parameter("fc1.weight").shape == (120, 48)
    assert network.terms("fc1.weight", 1) == ((16, ("conv2",)),)
    assert network.units("conv2", network.group("conv2").members[-1]).tolist() == [i // 16 for i in range(256)]


def test_masks_are_zero_where_a_parameter_goes() -> None:
    network = capture(LeNet(), torch.randn(2, 1, 28, 28))
    found = masks(network, {"conv1": [0, 1, 5]})
    assert set(found) == {"conv1.weight", "conv1.bias", "conv2.weight"}
    assert found["conv2.weight"].float().mean() == 0.5
    assert not found["conv1.bias"][2:5].any()


def test_a_conv_that_changes_its_dtype_inside_is_compared_in_double() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.softplus(self.a(x).to(torch.float32)).float())

    network = capture(Casts(), torch.randn(2, 4))
    assert verify(network, {"a": [1, 6, 7]}).max_abs_diff < 1e-14


def test_verify_sees_a_wrong_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    network = capture(LeNet(), torch.randn(2, 1, 28, 28))
    kept = {"conv1": [0, 2]}
    assert verify(network, kept).exact
    module = importlib.import_module("trimtab.graph.verify")

    def wrong(network: Network, _: dict[str, list[int]]) -> Network:
        return cut(network, {"conv1": [0, 3]})

    monkeypatch.setattr(module, "cut", wrong)
    proof = verify(network, kept)
    assert not proof.exact
    assert "differ" in proof.reason
    assert proof.outputs == 5 * 10


def test_channels_last_and_dtype() -> None:
    network = capture(LeNet(), torch.randn(2, 1, 28, 28)).to(torch.float64)
    assert network.example.dtype == torch.float64
    small = cut(network, {"conv1": [0, 2]})
    assert all(p.dtype == torch.float64 for p in small.parameters())
    resnet = capture(CifarResNet(8, (4, 8, 8)), torch.randn(2, 3, 8, 8))
    x = torch.randn(4, 3, 8, 8)
    expected = resnet(x)
    torch.testing.assert_close(resnet.to(memory_format=torch.channels_last)(x), expected)


def test_pinned_means_compose_over_two_cuts() -> None:
    class Means(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).mean(1, keepdim=True) * self.b(x)

    network = capture(Means(), torch.randn(2, 4)).to(torch.float64)
    twice = cut(cut(network, {"a": [0, 1, 4, 5]}), {"a": [1, 3]})
    once = cut(network, {"a": [1, 5]})
    x = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(twice(x), once(x))


def test_a_deep_network_is_analysed_at_once() -> None:
    import time

    network = capture(CifarResNet(56), torch.randn(1, 3, 8, 8))
    start = time.process_time()
    assert len(network.groups) == 32
    assert time.process_time() - start < 3  # half a second on a core of its own
