"""What a timeline says: which findings, with which shares and words; and what a CPU can do."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trimtab.graph import capture
from trimtab.measure.hotspots import _odd_widths, by_family, explain, family
from trimtab.measure.machine import cpu, read_cpu
from trimtab.plan import Cpu, Hotspots, OperatorTime, Timeline

CPU = Cpu(name="a CPU", cores=2, integer_dots=("avx512_vnni",))


def operator(name, milliseconds, kind="integer", layer="", calls=1):
    return OperatorTime(operator=name, kind=kind, layer=layer, calls=calls, milliseconds=milliseconds)


def timeline(*operators):
    return Timeline(total_ms=sum(o.milliseconds for o in operators), operators=operators)


def findings(*operators, before=None, fallbacks=(), widths=None, threads=2, machine=CPU):
    found = Hotspots(before=before, after=timeline(*operators), cpu=machine, threads=threads)
    return list(explain(found, fallbacks, widths or {}))


def test_integer_arithmetic_alone_leaves_nothing_to_say():
    assert findings(operator("QLinearConv", 2.0), operator("QGemm", 1.0), operator("Reshape", 0.1, "move")) == []


def test_what_runs_in_float_is_named_with_its_share_and_a_remedy():
    found = findings(
        operator("QLinearConv", 7.0),
        operator("Sigmoid", 2.0, "float", calls=3),
        operator("Conv", 1.0, "float"),
        operator("Softmax", 0.01, "float"),
        fallbacks=["up: Sigmoid runs in float", "net.py:3 in forward: Sigmoid runs in float", "a: Conv runs in float"],
    )
    assert [finding.about for finding in found] == ["fallback", "fallback"]
    assert found[0].share == pytest.approx(2 / 10.01)
    assert found[0].says == "Sigmoid runs in float and takes 20% of the time: up, net.py:3 in forward"
    assert "ReLU" in found[0].remedy
    assert found[1].says.endswith("takes 10% of the time: a")
    assert "8 bits" in found[1].remedy


def test_conversions_count_by_name_but_not_those_of_input_and_output():
    ends = operator("QuantizeLinear", 1.0, "conversion"), operator("DequantizeLinear", 1.0, "conversion")
    assert findings(operator("QLinearConv", 2.0), *ends) == []
    (found,) = findings(operator("QLinearConv", 2.0), *ends, operator("ReorderOutput", 1.0, "conversion", calls=2))
    assert found.about == "conversion"
    assert found.share == pytest.approx(3 / 5)
    assert "1 QuantizeLinear, 1 DequantizeLinear, 2 ReorderOutput" in found.says


def test_what_is_not_faster_than_in_float_is_told_by_family():
    before = timeline(operator("Conv", 6.0, "float"), operator("Conv (grouped)", 1.0, "float"))
    (found,) = findings(operator("QLinearConv", 2.0), operator("QLinearConv (grouped)", 1.0), before=before)
    assert found.about == "not faster"
    assert found.says == "grouped convolution: 1 ms, in float 1 ms, so that few bits gain nothing there"
    assert found.share == pytest.approx(1 / 3)


def test_widths_threads_and_instructions():
    (width,) = findings(
        operator("QLinearConv", 3.0, layer="a"), operator("QGemm", 1.0, layer="b"), widths={"a": "a has 30 channels"}
    )
    assert (width.about, width.share) == ("width", 0.75)
    assert "a has 30 channels" in width.says
    (few,) = findings(operator("QGemm", 1.0), threads=1)
    assert few.says == "1 of 2 cores is used"
    (many,) = findings(operator("QGemm", 1.0), threads=5)
    assert many.says == "5 threads share 2 cores"
    (old,) = findings(operator("QGemm", 1.0), machine=Cpu(name="Old", cores=2, integer_dots=()))
    assert old.says.startswith("Old has no instruction")
    assert findings(operator("QGemm", 1.0), machine=Cpu(name="?", cores=2, integer_dots=None)) == []


def test_only_widths_that_may_change_are_odd():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 30, 3), nn.Conv2d(30, 8, 3), nn.Linear(8, 5)

        def forward(self, x):
            return self.c(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))

    network = capture(Net().eval(), torch.randn(3, 3, 8, 8))
    assert _odd_widths(network, 4) == {"a": "a has 30 channels, not a multiple of 4"}
    assert _odd_widths(network, 2) == {}


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("Conv", "FusedConv", "QLinearConv", "Convolution", "aten::conv2d"), "convolution"),
        (("QLinearConv (grouped)", "Conv (grouped)"), "grouped convolution"),
        (("ConvTranspose", "QLinearConvTranspose"), "transposed convolution"),
        (("Gemm", "QGemm", "MatMul", "MatMulNBits", "FullyConnected", "aten::linear", "aten::addmm"), "linear"),
        (("LSTM", "DynamicQuantizeLSTM", "GRU"), "recurrent"),
        (("QuantizeLinear", "DequantizeLinear", "Cast", "ReorderInput", "Convert"), "conversion"),
        (("Add", "QLinearAdd"), "add"),
        (("Mul", "QLinearMul", "Multiply"), "multiply"),
        (("QLinearGlobalAveragePool", "ReduceMean", "AveragePool"), "average"),
        (("LayerNormalization", "SkipLayerNormalization"), "normalization"),
        (("Relu", "Sigmoid", "QLinearSigmoid", "HardSwish", "Gelu", "Clip"), "activation"),
        (("Softmax", "QLinearSoftmax"), "softmax"),
        (("TopK",), "TopK"),
    ],
)
def test_families_of_operators(names, kind):
    assert {family(name) for name in names} == {kind}


@given(st.lists(st.tuples(st.sampled_from(["Conv", "QGemm", "Reshape", "Odd"]), st.floats(0, 9)), max_size=8))
def test_families_sum_to_the_operators_and_fall(times):
    of = timeline(*(operator(name, ms, "move" if name == "Reshape" else "float") for name, ms in times))
    sums = by_family(of)
    assert sum(sums.values()) == pytest.approx(sum(ms for _, ms in times))
    assert list(sums.values()) == sorted(sums.values(), reverse=True)
    assert by_family(None) == {}


def test_a_cpu_is_read_from_what_linux_says():
    xeon = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx512_vnni amx_int8 avx2\n\nprocessor\t: 1\n"
    assert read_cpu(xeon, 4) == Cpu(name="Xeon", cores=4, integer_dots=("avx512_vnni", "amx_int8"))
    assert read_cpu("model name\t: Old\nflags\t\t: fpu avx2\n", 1).integer_dots == ()
    assert read_cpu("Features\t: fp asimd asimddp\n", 1).integer_dots == ("asimddp",)
    assert read_cpu("", 1).integer_dots is None
    assert cpu().cores >= 1
