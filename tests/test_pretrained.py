"""The contract on a real network: pretrained CIFAR-10 ResNet-20, in int8, executed by ONNX Runtime."""

from pathlib import Path

import pytest
import torch

from trimtab.apply import apply
from trimtab.graph import Network, capture, verify
from trimtab.lower import lower, prove, target
from trimtab.measure import evaluate
from trimtab.plan import GroupDecision, LayerDecision, Plan
from trimtab.recover import settle
from trimtab.tasks import Task, load_task
from trimtab.tasks.rows import take

ONNXRUNTIME = target("onnxruntime")
ROWS = 256


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(str(Path(__file__).parent.parent / "examples" / "cifar10_resnet.py"), {"depth": "20"})


@pytest.fixture(scope="module")
def images(task: Task) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first test images, in two batches of unequal size."""
    inputs, labels = next(iter(task.test or []))
    rows = torch.arange(len(labels))
    return [(take(inputs, part), take(labels, part)) for part in (rows[:100], rows[100:ROWS])]


@pytest.fixture(scope="module")
def network(task: Task) -> Network:
    return capture(task.model, next(iter(task.val))[0])


def int8_plan(network: Network, groups: tuple[GroupDecision, ...] = ()) -> Plan:
    layers = []
    for layer in network.layers:
        weight, activation = ONNXRUNTIME.schemes_by_operator[layer.operator]
        layers.append(LayerDecision(layer=layer.name, weight=weight, activation=activation))
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", groups=groups, layers=tuple(layers))


def test_every_bit_of_the_int8_artifact_is_simulated(
    task: Task, network: Network, images: list[tuple[torch.Tensor, torch.Tensor]], tmp_path: Path
) -> None:
    plan = int8_plan(network)
    settled = settle(apply(network, plan), [x for x, _ in images], structure_changed=False)
    artifact = lower(settled, ONNXRUNTIME, tmp_path / "model.onnx")
    proof = prove(artifact, settled, images)
    assert proof.identical_rows == 1.0
    assert proof.float_ops == {}
    assert proof.integer_ops == {"QLinearConv": 19, "QLinearAdd": 9, "QLinearGlobalAveragePool": 1, "QGemm": 1}
    assert proof.agreement >= 0.98
    before, after = (evaluate(thing, images, task.metric).value for thing in (network, artifact))
    assert before > 0.85
    assert before - after <= 0.02
    assert artifact.file_bytes < 285_000


def test_a_cut_of_the_widened_shortcuts_is_exact_and_still_simulated(
    network: Network, images: list[tuple[torch.Tensor, torch.Tensor]], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    kept = {}
    for group in network.groups:
        half = torch.randperm(group.width, generator=generator)[: group.width // 2]
        kept[group.name] = tuple(sorted(half.tolist()))
    verification = verify(network, kept)
    assert verification.exact
    assert verification.max_abs_diff < 1e-9
    groups = tuple(GroupDecision(group=name, kept=units) for name, units in kept.items())
    plan = int8_plan(network, groups)
    settled = settle(apply(network, plan), [x for x, _ in images], structure_changed=True)
    weight = settled.module.get_parameter("layer3.2.conv2.weight")
    assert tuple(weight.shape) == (32, 32, 3, 3)
    proof = prove(lower(settled, ONNXRUNTIME, tmp_path / "model.onnx"), settled, images)
    assert proof.identical_rows == 1.0
    assert proof.float_ops == {}
