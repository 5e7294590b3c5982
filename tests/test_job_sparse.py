"""A plan with sparsity, put into a run by hand: zeros are held through training and arrive in the artifact."""

import json
from pathlib import Path

import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

import tiny
from trimtab.apply import apply
from trimtab.cli import app
from trimtab.conclude import layer_rows
from trimtab.errors import ConfigError, PlanError, RunError
from trimtab.graph import Network
from trimtab.job import Job
from trimtab.lower.onnxruntime import optimized
from trimtab.plan import (
    PER_CHANNEL,
    PER_TENSOR,
    Budget,
    GroupDecision,
    Kernels,
    LayerDecision,
    NofM,
    Options,
    Plan,
    Proof,
    Scheme,
    Weights,
)
from trimtab.prune.masks import masks_of
from trimtab.recover import repair
from trimtab.report import Stages
from trimtab.search import Proposal
from trimtab.tasks import load_task

INT8 = {
    "weight": Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL),
    "activation": Scheme(grid="affine", bits=8, granularity=PER_TENSOR),
}
LAYERS = (
    LayerDecision(layer="conv1", sparsity=Weights(fraction=0.9), **INT8),
    LayerDecision(layer="conv2", sparsity=NofM(kept=1, of=16), criterion="taylor", **INT8),
    LayerDecision(layer="head", sparsity=Weights(fraction=0.9), criterion="fisher"),
)
SHARES = {"conv1": 0.9, "conv2": 15 / 16, "head": 0.9}


@pytest.fixture(scope="module")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_task(tmp_path_factory.mktemp("sparse"))


def opened(task_file: Path, folder: Path) -> Job:
    return Job.open(
        load_task(str(task_file)),
        folder,
        budget=Budget(drop=0.1),
        target="onnxruntime",
        seed=0,
        options=Options(epochs=3),
        spec=str(task_file),
        progress=Stages(quiet=True),
    )


def said(*arguments: object) -> str:
    """What `trimtab …` prints."""
    found = CliRunner().invoke(app, list(map(str, arguments)))
    assert found.exit_code == 0, found.output
    return found.output


def made(network: Network, *layers: LayerDecision, **changes: object) -> Plan:
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers, **changes)  # type: ignore[arg-type]


def shares(network: Network) -> dict[str, float]:
    weights = {name: network.module.get_parameter(f"{name}.weight").detach() for name in SHARES}
    return {name: float((weight == 0).double().mean()) for name, weight in weights.items()}


def test_zeros_are_held_through_training_and_arrive(task_file: Path, tmp_path: Path) -> None:
    with opened(task_file, tmp_path / "run") as job:
        kept = GroupDecision(group="conv1", kept=tuple(range(0, 32, 2)))
        plan = made(job.network, *LAYERS, groups=(kept,))
        job.run.write("plan.json", plan.to_json())
        before = job.settled(plan)
    assert "drop on val" in said("recover", tmp_path / "run")
    with Job.load(tmp_path / "run", progress=Stages(quiet=True)) as job:
        number, attempt = job.best()
        network = job.trained(number, attempt)
        artifact = job.lower(network)
    assert shares(network) == pytest.approx(SHARES, abs=0.01)
    masks, after = masks_of(before, plan), dict(network.named_parameters())
    for name, mask in masks.items():
        assert not after[name][~mask].any()
        assert not torch.equal(after[name], before.module.get_parameter(name))  # it has trained
    stored = [numpy_helper.to_array(c) for c in optimized(artifact).graph.initializer]
    for mask in masks.values():
        shape = tuple(mask.shape)
        (array,) = [a if a.shape == shape else a.T for a in stored if a.ndim > 1 and a.shape in {shape, shape[::-1]}]
        assert not array[(~mask).numpy()].any()


def test_statistics_are_collected_as_the_plan_needs_them(task_file: Path, tmp_path: Path) -> None:
    with opened(task_file, tmp_path / "run") as job:
        first, second = (job.settled(made(job.network, *LAYERS)) for _ in range(2))
        assert shares(first) == pytest.approx(SHARES, abs=0.01)
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
        by_size = made(job.network, LAYERS[1].model_copy(update={"criterion": "magnitude"}))
        weights = [n.module.get_parameter("conv2.weight") != 0 for n in (first, job.settled(by_size))]
        assert not torch.equal(*weights)
        with pytest.raises(ConfigError, match="unknown criterion 'luck'"):
            job.settled(made(job.network, LAYERS[1].model_copy(update={"criterion": "luck"})))
        with pytest.raises(PlanError, match="plan: conv1: 2 of 4 needs inputs in multiples of 4"):
            job.settled(made(job.network, LayerDecision(layer="conv1", sparsity=NofM(kept=2, of=4))))


def test_apply_collects_statistics_and_says_the_share_of_zeros(task_file: Path, tmp_path: Path) -> None:
    with opened(task_file, tmp_path / "run") as job:
        plan, network = made(job.network, *LAYERS), job.network
    (tmp_path / "plan.json").write_text(plan.to_json())
    before, after = json.loads(said("apply", task_file, tmp_path / "plan.json", "--json"))["applied"]["zero weights"]
    sizes = {name: network.module.get_parameter(f"{name}.weight").numel() for name in SHARES}
    expected = sum(SHARES[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert (before, after) == (0.0, pytest.approx(expected, abs=1e-3))
    assert f"{after:.2%}" in said("apply", task_file, tmp_path / "plan.json").replace(" %", "%")


def test_batch_norm_is_measured_anew_for_a_sparse_network(task_file: Path, tmp_path: Path) -> None:
    with opened(task_file, tmp_path / "run") as job:
        half = LayerDecision(layer="conv1", sparsity=Kernels(fraction=0.5))
        sparse, dense = job.settled(made(job.network, half)), job.settled(made(job.network))
        statistics = [dict(n.named_buffers())["bn1.running_var"] for n in (job.network, dense, sparse)]
        assert torch.equal(statistics[0], statistics[1])
        assert not torch.equal(statistics[0], statistics[2])


def test_a_plan_that_cannot_be_reached_is_one_line_and_the_run_goes_on(task_file: Path, tmp_path: Path) -> None:
    with opened(task_file, tmp_path / "run") as job:
        plan = made(job.network, LayerDecision(layer="conv1", sparsity=NofM(kept=2, of=4)))
        with pytest.raises(PlanError, match="plan: conv1"):
            job.carry_out(Proposal(plan=plan), [])
        with pytest.raises(RunError, match="nothing was carried out yet"):
            job.best()


def test_the_report_says_how_many_zeros_there_are(task_file: Path, tmp_path: Path) -> None:
    with opened(task_file, tmp_path / "run") as job:
        plan = made(job.network, *LAYERS)
        proof = Proof(
            executed_on="", integer_ops={}, float_ops={}, max_abs_diff=0, agreement=1, identical_rows=1, rows=1
        )
        rows = layer_rows(job.network, job.settled(plan), plan, proof)
    assert {row.name: row.zeros for row in rows} == pytest.approx(SHARES, abs=0.01)


def test_a_plans_solver_is_used(task_file: Path, tmp_path: Path) -> None:
    decision = LayerDecision(
        layer="conv2", weight=Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL), solver="gptq"
    )
    with opened(task_file, tmp_path / "run") as job:
        nearest, plan = (made(job.network, d) for d in (decision.model_copy(update={"solver": "nearest"}), decision))
        solved, rounded = job.settled(plan).state_dict(), job.settled(nearest).state_dict()
        repaired = repair(apply(job.network, plan), job.network, plan, job.calibration).state_dict()
        assert not torch.equal(solved["conv2.weight"], rounded["conv2.weight"])
        assert all(torch.equal(value, repaired[name]) for name, value in solved.items())
