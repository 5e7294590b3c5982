"""When training goes to bfloat16 and channels-last: by rule."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from trimtab.graph import capture
from trimtab.recover import Settings, precision
from trimtab.tasks.rows import lay_out


def network_of(*layers):
    """A stand-in with (operator, weight's shape, positions) for each layer."""
    return SimpleNamespace(
        layers=[SimpleNamespace(operator=op, weight=str(i), positions=n) for i, (op, _, n) in enumerate(layers)],
        named_parameters=lambda: [(str(i), torch.empty(shape)) for i, (_, shape, _) in enumerate(layers)],
    )


RESNET_LIKE = [("convolution", (16, 16, 3, 3), 1024)] * 7 + [("linear", (10, 64), 1)]
DIGITS_LIKE = [("convolution", (32, 16, 3, 3), 64), ("linear", (10, 512), 1)]
NARROW = [("linear", (64, 64), 4096)] * 4
WIDE = [("linear", (256, 1024), 64)] * 2


@pytest.mark.parametrize(
    ("layers", "gains"),
    [
        (RESNET_LIKE, True),
        (DIGITS_LIKE, False),
        (NARROW, False),
        (WIDE, True),
        (NARROW + WIDE, False),
        (NARROW + 5 * WIDE, True),
    ],
)
def test_bfloat16_where_the_processor_and_the_network_gain(monkeypatch, layers, gains):
    network = network_of(*layers)
    for able in (True, False):
        monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda able=able: able)
        assert (precision.training_dtype(network, "auto") == torch.bfloat16) == (gains and able)
    assert precision.training_dtype(network, "bfloat16") == torch.bfloat16
    assert precision.training_dtype(network, "float32") == torch.float32


class Viewing(nn.Module):
    """A view over channels and places, which channels-last cannot express."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(-1, 16))


def test_layout_follows_the_inputs_and_what_the_graph_can_do():
    x = torch.randn(5, 2, 4, 4)
    conv = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    cases = [
        (conv, x, True, torch.channels_last),
        (conv, x, False, torch.contiguous_format),
        (Viewing(), x, True, torch.channels_last),
        (nn.Linear(4, 2), x[:, 0, 0], True, torch.contiguous_format),
    ]
    for model, inputs, allowed, expected in cases:
        network = capture(model.eval(), inputs)
        before = network(inputs)
        assert precision.choose_layout(inputs, Settings(channels_last=allowed)) == expected
        precision.set_layout(network, expected)
        laid_out = lay_out(inputs, expected)
        torch.testing.assert_close(network(laid_out), before)
        assert all(p.is_contiguous(memory_format=expected) for p in network.parameters() if p.dim() == 4)
