"""MLPerf Tiny's ResNet-8 as an example, against the layer graph that its reference writes beside the weights."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from trimtab.tasks import Task, limit_threads, load_task, validate

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "mlperf_tiny_resnet8.py")


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(EXAMPLE)


def same(x: Tensor, size: int, stride: int) -> Tensor:
    """Zeros around a square picture as Keras pads it: what cannot be halved goes right and below."""
    total = max((-(-x.shape[-1] // stride) - 1) * stride + size - x.shape[-1], 0)
    before, after = total // 2, total - total // 2
    return F.pad(x, (before, after, before, after))


def keras(layer: dict[str, Any], inputs: list[Tensor], stored: dict[str, Tensor]) -> Tensor:
    """One layer of the reference's graph, in float64."""
    own = {
        part: stored[f"{layer['name']}.{part}"].double()
        for part in ("weight", "bias", "running_mean", "running_var")
        if f"{layer['name']}.{part}" in stored
    }
    match layer["class"]:
        case "Conv2D":
            stride = layer["strides"][0]
            x = same(inputs[0], layer["kernel_size"][0], stride)
            return F.conv2d(x, own["weight"], own["bias"], stride=stride)
        case "BatchNormalization":
            mean, var, gamma, beta = (
                own[part][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
            )
            return (inputs[0] - mean) / (var + layer["epsilon"]).sqrt() * gamma + beta
        case "Activation":
            return inputs[0].relu()
        case "Add":
            return inputs[0] + inputs[1]
        case "AveragePooling2D":
            return F.avg_pool2d(inputs[0], layer["pool_size"][0])
        case "Flatten":
            return inputs[0].permute(0, 2, 3, 1).flatten(1)
        case "Dense":
            return inputs[0] @ own["weight"].T + own["bias"]
    raise AssertionError(layer["class"])


def test_the_network_is_the_graph_of_the_reference(task: Task) -> None:
    folder = Path(os.environ["TRIMTAB_WEIGHTS"]) / "mlperf_tiny"
    first, *layers = json.loads((folder / "ic_resnet8.json").read_text())["layers"]
    stored = load_file(folder / "ic_resnet8.safetensors")
    pixels = torch.randint(256, (3, 3, 32, 32)).float()
    values = {first["name"]: pixels.double()}
    for layer in layers:
        values[layer["name"]] = keras(layer, [values[name] for name in layer["inputs"]], stored)
    with torch.no_grad(), limit_threads(1):
        torch.testing.assert_close(task.model(pixels).double(), values[layers[-1]["name"]], rtol=1e-3, atol=1e-3)


def test_it_reads_pixels_and_is_as_accurate_as_measured(task: Task) -> None:
    right = total = 0
    with torch.no_grad(), limit_threads(1):
        validate(task)
        for number, (images, labels) in enumerate(task.test):
            if number % 5 == 0:
                assert float(images.max()) == 255
                right += int((task.model(images).argmax(1) == labels).sum())
                total += len(labels)
    assert total == 2000
    assert abs(right / total - 0.8719) < 0.03
