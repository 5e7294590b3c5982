"""The rows of the report say what came of every layer."""

import torch
from torch import nn

from trimtab.apply import apply
from trimtab.conclude import layer_rows
from trimtab.graph import capture
from trimtab.plan import BranchDecision, GroupDecision, Plan, Proof


class Residual(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


def test_a_layer_of_a_removed_branch_has_width_0() -> None:
    model = nn.Sequential(nn.Linear(3, 8), Residual(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)), nn.Linear(8, 2))
    network = capture(model, torch.randn(3, 3))
    plan = Plan(
        fingerprint=network.fingerprint,
        target="onnxruntime",
        groups=(GroupDecision(group="0", kept=(0, 2, 7)),),
        branches=(BranchDecision(branch="1", removed=True),),
    )
    proof = Proof(
        executed_on="",
        integer_ops={},
        float_ops={},
        fallbacks=(),
        max_abs_diff=0,
        agreement=1,
        identical_rows=1,
        rows=1,
    )
    rows = layer_rows(network, apply(network, plan), plan, proof)
    assert [(row.name, row.width_before, row.width_after, row.bytes) for row in rows] == [
        ("0", 8, 3, 3 * 3 * 4),
        ("1.0", 6, 0, 0),
        ("1.2", 8, 0, 0),
        ("2", 2, 2, 2 * 3 * 4),
    ]
