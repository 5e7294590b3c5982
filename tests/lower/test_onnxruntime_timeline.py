"""The timeline of an ONNX file is what the runtime executes: operators, kinds and layers against its own graph."""

from collections import Counter

import pytest
import torch

from int8_nets import INTEGER_NETS, MIXED_NETS, quantized, random_inputs
from trimtab.lower import backend, lower, lower_float, target
from trimtab.measure import hotspots


@pytest.fixture(scope="module", params=["groups, depthwise, 1x1", "squeeze and excite"])
def lowered(request, tmp_path_factory):
    make, shapes = (INTEGER_NETS | MIXED_NETS)[request.param]
    torch.manual_seed(0)
    example = random_inputs(shapes, 5)
    network = quantized(make(), example)
    where, folder = target("onnxruntime"), tmp_path_factory.mktemp("timeline")
    integer = lower(network, where, folder / "int8.onnx")
    return network, integer, lower_float(network.dequantize(), where, folder / "float.onnx"), example


def test_operators_are_those_that_the_runtime_executes(lowered):
    _, artifact, _, example = lowered
    found = artifact.timeline(example, seconds=0.02)
    kernels = backend("onnxruntime").kernels(artifact)
    for kind, expected in (("integer", kernels.integer), ("float", kernels.floating)):
        counted = Counter()
        for operator in found.operators:
            if operator.kind == kind:
                counted[operator.operator.removesuffix(" (grouped)")] += operator.calls
        assert counted == expected, kind
    assert found.total_ms > 0
    assert all(operator.milliseconds > 0 for operator in found.operators)


def test_every_layer_has_its_time(lowered):
    network, artifact, _, example = lowered
    found = artifact.timeline(example, seconds=0.02)
    timed = {operator.layer for operator in found.operators if operator.kind == "integer" and operator.layer}
    assert timed >= {layer.name.partition("#")[0] for layer in network.layers}


def test_float_files_have_no_integer_operators(lowered):
    _, _, original, example = lowered
    kinds = {operator.kind for operator in original.timeline(example, seconds=0.02).operators}
    assert "float" in kinds
    assert "integer" not in kinds


def test_hotspots_of_a_pair_and_of_a_file_alone(lowered):
    network, artifact, original, example = lowered
    fallbacks = backend("onnxruntime").kernels(artifact).fallbacks
    found = hotspots(artifact, example, before=original, network=network, fallbacks=fallbacks, seconds=0.02)
    assert found.before is not None
    assert found.threads == artifact.threads
    assert hotspots(artifact.with_threads(2), example, seconds=0.02).before is None
    named = " ".join(finding.says for finding in found.findings if finding.about == "fallback")
    assert not named or all(word in " ".join(fallbacks) for word in [named.split()[0]])


def test_inputs_by_name(tmp_path):
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(6, 4)

        def forward(self, x, y):
            return self.linear(x) + y

    example = {"y": torch.randn(5, 4), "x": torch.randn(5, 6)}
    network = quantized(Named(), example)
    artifact = lower(network, target("onnxruntime"), tmp_path / "named.onnx")
    found = artifact.timeline(example, seconds=0.02)
    assert any(operator.layer == "linear" for operator in found.operators)
