"""The timeline of a network on OpenVINO: its operators are those that the runtime says it executed."""

from collections import Counter

import pytest
import torch

from int8_nets import INTEGER_NETS, quantized, random_inputs
from trimtab.lower import backend, lower, lower_float, target
from trimtab.measure import hotspots

pytest.importorskip("openvino")


def test_operators_layers_and_families(tmp_path):
    make, shapes = INTEGER_NETS["groups, depthwise, 1x1"]
    torch.manual_seed(0)
    example = random_inputs(shapes, 5)
    network = quantized(make(), example)
    where = target("openvino")
    artifact = lower(network, where, tmp_path / "int8.onnx")
    found = artifact.timeline(example, seconds=0.02)
    kernels = backend("openvino").kernels(artifact)
    counted = Counter()
    for operator in found.operators:
        if operator.kind == "integer":
            counted[operator.operator] += operator.calls
    assert counted == kernels.integer
    assert found.total_ms > 0
    timed = {operator.layer for operator in found.operators if operator.kind == "integer"}
    assert timed >= {layer.name for layer in network.layers if layer.operator == "convolution"}
    original = lower_float(network.dequantize(), where, tmp_path / "float.onnx")
    pair = hotspots(artifact, example, before=original, network=network, seconds=0.02)
    assert pair.before is not None
    assert "integer" not in {operator.kind for operator in pair.before.operators}
