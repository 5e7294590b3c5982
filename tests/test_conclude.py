"""What is concluded: the rows of the report, and that a proof which disagrees is a reason."""

import inspect
import shlex
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import trimtab.conclude
from trimtab.apply import apply
from trimtab.commands.compress import compress_command
from trimtab.conclude import _NOT_ON_THE_COMMAND_LINE, _command, disagreement, layer_rows
from trimtab.graph import capture
from trimtab.lower import target
from trimtab.measure import Timing
from trimtab.plan import BranchDecision, Budget, GroupDecision, Options, Plan, Proof


class Residual(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


def proof(agreement: float = 1, rows: int = 1) -> Proof:
    return Proof(
        executed_on="ONNX Runtime",
        integer_ops={},
        float_ops={},
        max_abs_diff=0,
        agreement=agreement,
        identical_rows=agreement,
        rows=rows,
    )


def test_a_layer_of_a_removed_branch_has_width_0() -> None:
    model = nn.Sequential(nn.Linear(3, 8), Residual(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)), nn.Linear(8, 2))
    network = capture(model, torch.randn(3, 3))
    plan = Plan(
        fingerprint=network.fingerprint,
        target="onnxruntime",
        groups=(GroupDecision(group="0", kept=(0, 2, 7)),),
        branches=(BranchDecision(branch="1", removed=True),),
    )
    rows = layer_rows(network, apply(network, plan), plan, proof())
    assert [(row.name, row.width_before, row.width_after, row.bytes) for row in rows] == [
        ("0", 8, 3, 3 * 3 * 4),
        ("1.0", 6, 0, 0),
        ("1.2", 8, 0, 0),
        ("2", 2, 2, 2 * 3 * 4),
    ]


@pytest.mark.parametrize(
    ("agreement", "rows", "agrees"),
    [
        (1, 10, True),
        (0.9, 10, True),
        (0.8, 10, False),
        (0.98, 1000, True),
        (0.979, 1000, False),
        (0, 1, True),
        (0, 2, False),
    ],
)
def test_an_artifact_that_predicts_otherwise_than_simulated_is_no_answer(
    agreement: float, rows: int, agrees: bool
) -> None:
    reasons = disagreement(proof(agreement, rows))
    assert (not reasons) == agrees
    assert agrees or f"{100 * agreement:.1f} % of {rows} predictions on ONNX Runtime agree, 98 % must" in reasons[0]


@pytest.mark.parametrize(
    ("limited", "steady_after", "looks"), [(True, 1, 1), (True, 3, 3), (True, 9, 3), (False, 9, 1)]
)
def test_noisy_timings_are_repeated_where_latency_is_limited_and_then_said(
    limited: bool, steady_after: int, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def timed(both: object, inputs: object, *, threads: int, seconds: float) -> dict[str, Timing]:
        waited.append(seconds)
        half = 0.02 if len(waited) >= steady_after else 0.2
        return {"after": Timing(median_ms=1.0, q25_ms=1 - half, q75_ms=1 + half, min_ms=0.5, runs=20)}

    monkeypatch.setattr(trimtab.conclude, "latencies", timed)
    budget = Budget(latency="1ms") if limited else Budget(size="1kB")
    job = SimpleNamespace(budget=budget, target=target("onnxruntime"), notes=[])
    trimtab.conclude._timed(job, {}, None)
    assert len(waited) == looks
    assert waited == sorted(waited)
    said = limited and steady_after > looks
    assert bool(job.notes) == said
    assert not said or "the quartiles of 20 runs lie 40 % apart (steady: at most 10 %)" in job.notes[0]


def test_the_command_has_every_option_that_is_not_the_default() -> None:
    named = set(Options.model_fields) - _NOT_ON_THE_COMMAND_LINE
    assert named <= set(inspect.signature(compress_command).parameters)
    options = Options(order="prune-then-quantize", refine="random", trials=5, epochs=2, confidence=0.9, recover=False)
    job = SimpleNamespace(
        run=SimpleNamespace(header={"task": "digits", "settings": {}}),
        options=options,
        budget=Budget(size="10%"),
        target=SimpleNamespace(name="onnxruntime"),
        seed=3,
    )
    words = shlex.split(_command(job))
    for word, value in {"order": options.order, "refine": "random", "trials": "5", "confidence": "0.9"}.items():
        assert words[words.index(f"--{word}") + 1] == value
    assert "--no-recover" in words
    assert "--criterion" not in words
