"""Equalized networks compute the same, from weights whose channels have the same range on both sides."""

import pytest
import torch
from torch import Tensor, nn

import trimtab as tt


class Chain(nn.Module):
    def __init__(self, clipped: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6() if clipped else nn.LeakyReLU(0.1),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 10),
            nn.ReLU(),
            nn.Linear(10, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def uneven(model: nn.Module) -> tt.Network:
    """Captured, with channels of very different ranges."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)
                module.weight.copy_(torch.randn(8) * 3)
                module.bias.normal_()
            elif isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(
                    torch.logspace(-2, 1, len(module.weight)).view(-1, *(1,) * (module.weight.dim() - 1))
                )
    return tt.capture(model.eval(), torch.randn(2, 3, 8, 8))


def ranges(network: tt.Network) -> list[tuple[Tensor, Tensor]]:
    """Of every pair in the chain: the range of each channel where it is written and where it is read."""
    state = {name.removeprefix("layers."): value for name, value in network.state_dict().items()}
    gain = (state["1.weight"] / (state["1.running_var"] + 1e-5).sqrt()).abs()

    def rows(weight: Tensor) -> Tensor:
        return weight.flatten(1).abs().amax(1)

    grouped = state["5.weight"].view(2, 3, 4, -1).abs().amax((1, 3)).flatten()
    return [
        (gain * rows(state["0.weight"]), rows(state["3.weight"])),
        (rows(state["3.weight"]), grouped),
        (rows(state["5.weight"]), state["9.weight"].view(10, 6, 4).abs().amax((0, 2))),
        (rows(state["9.weight"]), state["11.weight"].abs().amax(0)),
    ]


def test_the_function_stays_and_the_ranges_meet():
    network = uneven(Chain())
    same = tt.equalize(network)
    x = torch.randn(50, 3, 8, 8)
    torch.testing.assert_close(same(x), network(x), atol=1e-4, rtol=1e-4)
    assert any((wrote / read).log().abs().max() > 1 for wrote, read in ranges(network))
    for wrote, read in ranges(same):
        torch.testing.assert_close(wrote, read, rtol=5e-3, atol=0)


def test_a_clipped_activation_ends_a_chain():
    network = uneven(Chain(clipped=True))
    same = tt.equalize(network)
    x = torch.randn(50, 3, 8, 8)
    torch.testing.assert_close(same(x), network(x), atol=1e-4, rtol=1e-4)
    assert torch.equal(same.state_dict()["layers.1.weight"], network.state_dict()["layers.1.weight"])
    assert not torch.equal(same.state_dict()["layers.5.weight"], network.state_dict()["layers.5.weight"])


def test_a_second_reader_and_a_shared_weight_end_a_chain():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            return self.b(y) + y + self.c(self.c(x).relu())

    network = uneven(Shared())
    same = tt.equalize(network)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("layer", ["layers.3.weight", "layers.5.weight"])
def test_a_channel_of_zeros_does_no_harm(layer):
    network = uneven(Chain())
    with torch.no_grad():
        network.module.get_parameter(layer)[2] = 0
    same, x = tt.equalize(network), torch.randn(20, 3, 8, 8)
    assert bool(same(x).isfinite().all())
    torch.testing.assert_close(same(x), network(x), atol=1e-4, rtol=1e-4)
