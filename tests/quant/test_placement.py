"""Which values are rounded, network by network: the sites are named by the value that the kernel writes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from int8_nets import Wired, bare, conv, head, option_a, plan_for, residual, two_inputs
from trimtab.apply import apply
from trimtab.graph import capture
from trimtab.quant import ActivationFakeQuantize, WeightFakeQuantize

IMAGE = torch.randn(4, 3, 8, 8)


def sites(model: nn.Module, example: object, layers: set[str] | None = None) -> tuple[set[str], int]:
    """Names of the rounded values, and the number of rounded weights."""
    network = capture(model.eval(), example)  # type: ignore[arg-type]
    module = apply(network, plan_for(network, layers)).module
    rounded = {m.where for m in module.modules() if isinstance(m, ActivationFakeQuantize)}
    return rounded, sum(isinstance(m, WeightFakeQuantize) for m in module.modules())


def test_a_chain_rounds_the_input_and_what_every_kernel_writes() -> None:
    model = nn.Sequential(conv(3, 8), nn.MaxPool2d(2), conv(8, 8), head(8))
    assert sites(model, IMAGE) == ({"input_1", "relu", "relu_1", "adaptive_avg_pool2d"}, 3)


def test_both_operands_and_the_sum_of_a_residual() -> None:
    assert sites(residual(), IMAGE) == (
        {"args_0", "relu", "relu_1", "batch_norm_2", "relu_2", "adaptive_avg_pool2d"},
        4,
    )


def test_moves_keep_the_scale_of_what_they_read() -> None:
    assert sites(option_a(), IMAGE)[0] == {"args_0", "relu", "relu_1", "batch_norm_2", "relu_2", "adaptive_avg_pool2d"}


def test_logits_and_values_that_only_the_user_sees_stay_float() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    assert sites(model, torch.randn(4, 6)) == ({"input_1", "relu"}, 2)


def test_preactivation_rounds_the_operands_and_the_inputs_of_layers() -> None:
    def wiring(m: Wired, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.first(F.relu(m.norm(x)))
        return m.last(x)

    parts = {"stem": nn.Conv2d(3, 8, 3), "norm": nn.BatchNorm2d(8), "first": nn.Conv2d(8, 8, 3, padding=1)}
    assert sites(Wired(wiring, **parts, last=nn.Conv2d(8, 4, 1)), IMAGE)[0] == {
        "args_0",
        "conv2d",  # an operand: not behind the norm, which it does not feed alone
        "relu",
        "conv2d_1",
        "add",
        "conv2d_2",
    }


def test_a_concatenation_and_its_parts() -> None:
    model = Wired(
        lambda m, x: m.last(torch.cat([m.left(x), m.right(x)], 1)),
        left=conv(3, 4),
        right=bare(3, 4),
        last=nn.Conv2d(8, 4, 1),
    )
    assert sites(model, IMAGE)[0] == {"args_0", "relu", "batch_norm_1", "cat", "conv2d_2"}


def test_two_inputs() -> None:
    rounded, weights = sites(two_inputs(), (torch.randn(4, 6), torch.randn(4, 5)))
    assert rounded == {"args_0", "args_1", "relu", "relu_1", "cat"}
    assert weights == 3


def test_a_shared_weight_is_rounded_once() -> None:
    model = Wired(lambda m, x: m.out(F.relu(m.twice(F.relu(m.twice(x))))), twice=nn.Linear(6, 6), out=nn.Linear(6, 2))
    assert sites(model, torch.randn(4, 6)) == ({"args_0", "relu", "relu_1"}, 2)


def test_a_weight_under_two_names_is_rounded_once() -> None:
    first, second, out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), out)
    assert sites(model, torch.randn(4, 6)) == ({"input_1", "relu", "relu_1"}, 2)


def test_layers_that_are_not_decided_stay_float() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    assert sites(model, torch.randn(4, 6), {"2"}) == ({"relu"}, 1)
    assert sites(model, torch.randn(4, 6), set()) == (set(), 0)


def test_a_convolution_writes_codes_even_before_a_float_layer() -> None:
    model = nn.Sequential(conv(3, 8), nn.Flatten(), nn.Linear(512, 3))
    assert sites(model, IMAGE, {"0.0"})[0] == {"input_1", "relu"}


@pytest.mark.parametrize(
    ("pool", "site"),
    [
        (nn.AvgPool2d(8), "avg_pool2d"),
        (nn.AdaptiveAvgPool2d(1), "adaptive_avg_pool2d"),
        (nn.AvgPool2d(2), "avg_pool2d"),
    ],
)
def test_pooling_forms(pool: nn.Module, site: str) -> None:
    features = 8 if site != "avg_pool2d" or pool.kernel_size == 8 else 8 * 16
    model = nn.Sequential(conv(3, 8), pool, nn.Flatten(), nn.Linear(features, 3))
    assert sites(model, IMAGE)[0] == {"input_1", "relu", site}


def test_padding_with_another_value_than_zero_is_not_a_move() -> None:
    def padded(value: float) -> nn.Module:
        return Wired(lambda m, x: m.conv(F.pad(x, (1, 1, 1, 1), value=value)), conv=nn.Conv2d(3, 4, 3))

    assert sites(padded(0.0), IMAGE)[0] == {"args_0", "conv2d"}
    assert sites(padded(1.0), IMAGE)[0] == {"pad", "conv2d"}


def test_a_norm_over_another_dimension_is_not_taken_in() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(8, 5))
    assert sites(model, torch.randn(4, 4, 6))[0] == {"input_1", "relu"}


def test_a_norm_without_statistics_is_not_taken_in() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Conv2d(4, 2, 3)
    )
    assert sites(model, IMAGE)[0] == {"input_1", "conv2d", "relu", "conv2d_1"}


def test_a_last_join_leaves_the_layers_that_it_adds_unrounded() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.left(x) + self.right(x)

    assert sites(Heads(), torch.randn(4, 6)) == ({"x"}, 2)
