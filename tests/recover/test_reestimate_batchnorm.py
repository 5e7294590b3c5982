"""Re-estimated BatchNorm statistics against two passes over everything that each norm saw."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.errors import NumericsError, TaskError
from trimtab.graph import capture
from trimtab.recover import reestimate_batchnorm


class Net(nn.Module):
    """Two norms in a row, one in one dimension, one that is used twice, and dropout before the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.linear, self.bn3 = nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.bn1(self.conv1(x)))) + shift[:, None, None, None]
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn2(self.conv2(x))
        return self.bn3(self.linear(x.mean((2, 3))))


def make_batches(sizes):
    return [{"x": torch.randn(n, 3, 7, 7) * 5 + 3, "shift": torch.randn(n)} for n in sizes]


def two_pass(model, batches):
    """Mean and unbiased variance in float64 of every input of every norm, all norms on batch statistics."""
    seen = {}
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)}
    hooks = [
        norm.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0].detach()))
        for name, norm in norms.items()
    ]
    for norm in norms.values():
        norm.train()
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    for hook in hooks:
        hook.remove()
    model.eval()
    return {
        name: torch.cat([x.double().movedim(1, -1).reshape(-1, x.shape[1]) for x in inputs])
        for name, inputs in seen.items()
    }


@pytest.mark.parametrize("sizes", [(16,), (8, 8, 8), (12, 3, 7)])
def test_statistics_are_those_of_everything_seen(sizes):
    model, batches = Net().eval(), make_batches(sizes)
    network = capture(model, batches[0])
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    result = reestimate_batchnorm(network, batches)
    for name, rows in two_pass(model, batches).items():
        buffers = dict(result.named_buffers())
        torch.testing.assert_close(buffers[f"{name}.running_mean"].double(), rows.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(buffers[f"{name}.running_var"].double(), rows.var(0), rtol=1e-4, atol=1e-5)
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name])
    assert not result.training


def test_one_batch_makes_eval_equal_train():
    model = nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5), nn.ReLU()).eval()
    x = torch.randn(64, 2, 40)
    result = reestimate_batchnorm(capture(model, x), [x])
    torch.testing.assert_close(result(x), model.train()(x), rtol=1e-3, atol=1e-3)


def test_networks_without_norms_come_back_equal():
    x = torch.randn(4, 3)
    network = capture(nn.Linear(3, 2).eval(), x)
    assert torch.equal(reestimate_batchnorm(network, [x])(x), network(x))


def test_bad_input_is_named():
    x = torch.randn(4, 2, 8)
    network = capture(nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5)).eval(), x)
    with pytest.raises(TaskError, match="no batches"):
        reestimate_batchnorm(network, [])
    with pytest.raises(NumericsError, match=r"1\.running_mean: NaN or infinity"):
        reestimate_batchnorm(network, [x * float("nan")])
