import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import trimtab as tt
from trimtab.plan import GroupDecision
from trimtab.report import attention
from trimtab.report.attention import attention_weights


class Attends(nn.Module):
    """Self-attention of four heads over rows of seven places."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (of(x).unflatten(2, (4, 4)).transpose(1, 2) for of in (self.query, self.key, self.value))
        if self.fused:
            y = F.scaled_dot_product_attention(query, key, value)
        else:
            y = (query @ key.transpose(2, 3) / 2).softmax(-1) @ value
        return self.out(y.transpose(1, 2).flatten(2)).mean(1)


@pytest.mark.parametrize("mask", [None, "bool", "float", "causal"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_weights_are_those_of_the_operator(mask: str | None, groups: int) -> None:
    query, value = torch.randn(3, 4, 6, 8), torch.randn(3, groups, 6, 5)
    key = torch.randn(3, groups, 6, 8)
    masks = {"bool": torch.rand(6, 6) > 0.3, "float": torch.randn(6, 6)}
    if mask == "bool":
        masks["bool"].fill_diagonal_(True)  # a place that sees nothing has no weights
    asked = {"attn_mask": masks.get(mask or ""), "is_causal": mask == "causal", "scale": 0.3}
    weights = attention_weights(query, key, **asked)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 6))
    expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True, **asked)
    torch.testing.assert_close(weights @ value.repeat_interleave(4 // groups, dim=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_every_head_is_drawn_before_and_after(fused: bool) -> None:
    rows = torch.randn(2, 7, 16)
    network = tt.capture(Attends(fused=fused), rows)
    heads = next(group for group in network.groups if group.width == 4)
    plan = tt.Plan(
        fingerprint=network.fingerprint, target="onnxruntime", groups=(GroupDecision(group=heads.name, kept=(0, 2, 3)),)
    )
    (of,) = attention(network, tt.apply(network, plan), rows[:1])
    assert of.layer == ("scaled_dot_product_attention" if fused else "softmax")
    assert len(of.before) == 4
    assert of.after == tuple(of.before[head] for head in (0, 2, 3))  # a head that stays looks where it looked
    assert len(set(of.before)) == 4
    assert all(picture.startswith("data:image/png") for picture in of.before)


def test_what_does_not_attend_has_no_pictures() -> None:
    rows = torch.randn(4, 6)
    network = tt.capture(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(-1)), rows)
    assert attention(network, network, rows) == ()
