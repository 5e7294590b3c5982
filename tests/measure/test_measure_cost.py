"""Costs, timings, memory, and `measure` that puts them together."""

import time
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trimtab.errors import ConfigError, LoweringError, TaskError
from trimtab.graph import Network, capture
from trimtab.lower import target
from trimtab.measure import alternate, bops, first_rows, latencies, limit_threads, macs, measure, peak_bytes, zero_share
from trimtab.measure.cost import layer_macs
from trimtab.plan import LayerDecision, Plan, Scheme
from trimtab.tasks import Task


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.depthwise(self.conv(x)).mean((2, 3)))


def small() -> Network:
    return capture(Small(), torch.randn(4, 3, 8, 10))


def test_macs_are_half_of_torchs_flops():
    network = small()
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, 8, 10))
    assert 2 * macs(network) == counter.get_total_flops()


class Mixed(nn.Module):
    """What is no convolution and no linear layer."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(6, 8, 4, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 5, batch_first=True)

    def forward(self, x):
        x = self.up(x).transpose(1, 2)
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.lstm(x)[0]


def test_macs_count_products_of_activations_transposed_convolutions_and_recurrent_cells():
    network = capture(Mixed(), torch.randn(2, 6, 7))
    steps = (7 - 1) * 2 + 4
    attention = steps * 8 * 24 + 2 * steps * steps * 8 + steps * 8 * 8
    assert macs(network) == 7 * 6 * 8 * 4 + attention + steps * 4 * 5 * (8 + 5)
    linear = steps * 8 * 24 + steps * 8 * 8
    assert sum(layer_macs(network, layer) for layer in network.layers) == linear
    assert bops(network) == 1024 * macs(network)


def test_bops_count_bits_by_layer_and_float_as_32():
    network = small()
    conv, depthwise, head = 8 * 27 * 20, 8 * 9 * 6, 40
    assert bops(network) == 1024 * macs(network) == 1024 * (conv + depthwise + head)
    plan = Plan(
        fingerprint="f",
        target="t",
        layers=(
            LayerDecision(layer="conv", weight=Scheme(bits=4), activation=Scheme(bits=8)),
            LayerDecision(layer="head", weight=Scheme(bits=8)),
        ),
    )
    assert bops(network, plan) == conv * 32 + depthwise * 1024 + head * 256


def test_contestants_take_turns_in_a_drawn_order():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = alternate(contestants, seconds=0.0, min_runs=1000, warmup=2)
    turns = [(name, len(list(turn))) for name, turn in groupby(calls)][3:]  # the first three are warm-up
    runs = timings["a"].runs
    assert [timing.runs for timing in timings.values()] == [runs] * 3
    assert 1000 <= runs < 1050
    names = "".join(name * (count // 50) for name, count in turns)  # two turns may meet where rounds do
    rounds = [names[start : start + 3] for start in range(0, len(names), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 3
    with pytest.raises(ConfigError, match="min_runs=0"):
        alternate(contestants, seconds=0.0, min_runs=0)


def test_the_first_call_of_a_turn_is_not_counted_and_a_long_one_is():
    """A network whose memory another took away is slow once; one call longer than a turn is all there is."""
    last = []

    def run(name: str, first: float, later: float) -> None:
        time.sleep(later if last[-1:] == [name] else first)
        last.append(name)

    contestants = {"small": lambda: run("small", 0.02, 0.001), "large": lambda: run("large", 0.015, 0.015)}
    timings = alternate(contestants, seconds=0.0, min_runs=60, warmup=2)
    assert timings["small"].q75_ms < 10
    assert timings["large"].median_ms >= 15
    assert last.count("small") > 5 * last.count("large")


def test_timings_order_contestants_by_their_time():
    sleeps = {"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.01)}
    timings = alternate(sleeps, seconds=0.1, min_runs=5)
    short, long = timings["short"], timings["long"]
    assert 1.0 <= short.min_ms <= short.q25_ms <= short.median_ms <= short.q75_ms
    assert long.min_ms >= 10.0
    assert short.median_ms < long.median_ms
    assert (short.spread.q25_ms, short.spread.runs) == (short.q25_ms, short.runs)


def test_it_goes_on_for_the_asked_seconds():
    begin = time.perf_counter()
    timing = alternate({"a": lambda: time.sleep(0.002)}, seconds=0.15, min_runs=1)["a"]
    assert time.perf_counter() - begin >= 0.15
    assert timing.runs > 3


def test_threads_are_put_back():
    before = torch.get_num_threads()

    def fail():
        with limit_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert torch.get_num_threads() == before


def linear_onnx(path, width):
    """y = (x @ A) @ B with A [width, width], B [width, 2]; the batch has no size."""
    rng = np.random.default_rng(width)
    a, b = rng.standard_normal((width, width), np.float32), rng.standard_normal((width, 2), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(a, "a"), numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return torch.from_numpy(a @ b)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_peak_memory_grows_with_the_weights_and_the_batch(runtime, tmp_path):
    linear_onnx(tmp_path / "small.onnx", 64)
    linear_onnx(tmp_path / "large.onnx", 2048)
    small, large = (peak_bytes(tmp_path / f"{name}.onnx", runtime=runtime) for name in ("small", "large"))
    assert small < 8e6
    assert 16e6 < large < 16e6 * 5
    # 65 MB of inputs and hidden values
    assert peak_bytes(tmp_path / "large.onnx", runtime=runtime, batch=4000) > large + 30e6


def test_what_cannot_be_loaded_is_said(tmp_path):
    with pytest.raises(TaskError, match="no such file"):
        peak_bytes(tmp_path / "no.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    with pytest.raises(LoweringError, match=r"bad\.onnx cannot be loaded and run at batch 1: .*") as caught:
        peak_bytes(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)


class Artifact:
    target = target("onnxruntime")

    def __init__(self, path: Path):
        self.path = path
        self.file_bytes = path.stat().st_size
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def with_threads(self, threads):
        self.threads = threads
        return self

    def __call__(self, x):
        return torch.from_numpy(self.session.run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("form", ["tensor", "dict"])
def test_an_artifact_is_measured_whole(tmp_path, form):
    product = linear_onnx(tmp_path / "m.onnx", 64)
    rows = [torch.randn(3, 64) for _ in range(2)]
    test = [({"x": x} if form == "dict" else x, x @ product) for x in rows]
    task = Task(
        model=nn.Linear(64, 2),
        train=test,
        val=test,
        test=test,
        loss=nn.functional.mse_loss,
        metric=lambda outputs, target: -(outputs - target).abs().max(),
    )
    artifact = Artifact(tmp_path / "m.onnx")
    found = measure(artifact, task, batch=8, threads=2, seconds=0.02, network=small())
    assert abs(found.metric) < 1e-3
    assert found.file_bytes == (tmp_path / "m.onnx").stat().st_size
    assert found.peak_bytes > 0
    assert found.spread.q25_ms <= found.latency_ms <= found.spread.q75_ms
    assert (found.batch, found.threads, artifact.threads) == (8, 2, 2)
    assert found.macs == macs(small())
    assert found.bops == 1024 * found.macs


def test_a_module_is_measured_as_far_as_it_goes():
    rows = [(torch.randn(4, 3, 8, 10), torch.randint(5, (4,)))]
    task = Task(
        model=Small(),
        train=rows,
        val=rows,
        test=None,
        loss=nn.functional.cross_entropy,
        metric=lambda outputs, target: (outputs.argmax(1) == target).float().mean(),
    )
    found = measure(capture(task.model, rows[0][0]), task, seconds=0.02)
    assert found.macs == macs(small())
    found = measure(task.model, task, seconds=0.02)
    assert found.macs is None
    assert found.metric in {0.0, 0.25, 0.5, 0.75, 1.0}
    assert found.latency_ms > 0
    assert found.file_bytes is None
    assert found.peak_bytes is None
    assert task.model.training


def test_latencies_are_those_of_eval_mode_with_the_asked_threads():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append((self.training, torch.get_num_threads(), torch.is_grad_enabled(), len(x)))

    one, two = Spy(), Spy()
    timings = latencies({"one": one, "two": two}, torch.zeros(5, 2), threads=3, seconds=0.0)
    assert set(seen) == {(False, 3, False, 5)}
    assert timings.keys() == {"one", "two"}
    assert one.training


def test_first_rows_repeats_a_small_batch():
    x = torch.arange(3.0)[:, None]
    assert first_rows([({"x": x}, None)], 7)["x"][:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert first_rows([(x, None)], 2)[:, 0].tolist() == [0, 1]


def test_zeros_are_counted_among_what_may_be_sparse():
    network = capture(nn.Linear(4, 5), torch.randn(3, 4))
    with torch.no_grad():
        network.module.get_parameter("weight")[0] = 0.0
        network.module.get_parameter("bias").zero_()
    assert zero_share(network) == 0.2
