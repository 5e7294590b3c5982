"""Masks: what may be sparse, what is held, and what a plan has made zero."""

import pytest
import torch
from torch import Tensor, nn

from trimtab.apply import apply
from trimtab.errors import PlanError
from trimtab.graph import Network, capture, cut
from trimtab.plan import LayerDecision, NofM, Plan, Weights
from trimtab.prune.masks import hold, masks_of, prunable


class Speech(nn.Module):
    """Convolution, a stack of LSTMs with projections, cells, attention, a table and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True, proj_size=3)
        self.gru = nn.GRU(6, 4, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.cell = nn.GRUCell(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(self.table(x).transpose(1, 2)))).transpose(1, 2)
        x, _ = self.gru(self.lstm(x)[0])
        x = self.encoder(x)
        return self.head(self.head_in(x))

    def head_in(self, x: Tensor) -> Tensor:
        return self.cell(x[:, 0], x[:, -1])


def speech() -> Network:
    return capture(Speech().eval(), torch.randint(7, (3, 5)))


def test_every_matrix_of_a_layer_may_be_sparse_and_nothing_else() -> None:
    network = speech()
    known = prunable(network)
    tables_and_vectors = {name for name, p in network.named_parameters() if p.dim() < 2} | {"table.weight"}
    assert set(known.values()) == {name for name, _ in network.named_parameters()} - tables_and_vectors
    assert known["conv"] == "conv.weight"
    assert known["lstm.weight_hr_l1_reverse"] == "lstm.weight_hr_l1_reverse"
    assert known["encoder.self_attn.in_proj_weight"] == "encoder.self_attn.in_proj_weight"
    assert known["cell.weight_ih"] == "cell.weight_ih"
    assert {layer.name for layer in network.layers} <= known.keys()


def test_the_names_survive_a_cut_that_pads_a_projected_layer() -> None:
    network = speech()
    groups = [group for group in network.groups if group.name in {"lstm.l0", "lstm.l1_reverse", "conv"}]
    assert len(groups) == 3
    assert prunable(cut(network, {group.name: range(2) for group in groups})) == prunable(network)


def test_a_shared_weight_is_named_once() -> None:
    shared = nn.Linear(4, 4)
    network = capture(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(5, 4))
    assert prunable(network) == {"0": "0.weight"}
    assert len(network.layers) == 2


def test_hold_makes_zeros_in_place_and_leaves_the_rest() -> None:
    parameters = {name: nn.Parameter(torch.randn(4, 3)) for name in "ab"} | {"c": nn.Parameter(torch.randn(2))}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    masks = {name: torch.rand(4, 3) > 0.5 for name in "ab"}
    versions = {name: p.data_ptr() for name, p in parameters.items()}
    hold(parameters, masks)
    for name in "ab":
        assert torch.equal(parameters[name] != 0, masks[name])
        assert torch.equal(parameters[name][masks[name]], before[name][masks[name]])
        assert parameters[name].requires_grad
    assert torch.equal(parameters["c"], before["c"])
    assert versions == {name: p.data_ptr() for name, p in parameters.items()}
    hold(parameters, {})


def test_hold_does_not_hide_what_is_not_a_number() -> None:
    weight = torch.tensor([torch.nan, 1.0, 2.0])
    hold({"w": weight}, {"w": torch.tensor([False, False, True])})
    assert weight[0].isnan()
    assert weight[1:].tolist() == [0.0, 2.0]


def test_masks_of_a_plan_are_what_is_not_zero() -> None:
    network = speech()
    plan = Plan(
        fingerprint=network.fingerprint,
        target="onnxruntime",
        layers=(
            LayerDecision(layer="conv", sparsity=Weights(fraction=0.3)),
            LayerDecision(layer="gru.weight_hh_l0", sparsity=NofM(kept=1, of=4)),
            LayerDecision(layer="head"),
        ),
    )
    sparse = apply(network, plan)
    masks = masks_of(sparse, plan)
    assert masks.keys() == {"conv.weight", "gru.weight_hh_l0"}
    assert int((~masks["conv.weight"]).sum()) == round(0.3 * 8 * 6 * 3)
    assert int(masks["gru.weight_hh_l0"].sum()) == 12 * 4 // 4
    parameters = dict(sparse.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(1.0)
    hold(parameters, masks)
    assert all(torch.equal(parameters[name] != 0, mask) for name, mask in masks.items())
    other = capture(nn.Sequential(nn.Linear(4, 4)), torch.randn(3, 4))
    with pytest.raises(PlanError, match="plan: no layer 'conv' in this network; give the one that the plan made"):
        masks_of(other, plan)
