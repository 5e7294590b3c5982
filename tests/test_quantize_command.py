"""`trimtab quantize` on a tiny task: the plan that it writes, that apply takes it, and how it refuses."""

import json
import sys

import pytest

import tiny
from trimtab import cli
from trimtab.plan import Plan


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return tiny.write_task(tmp_path_factory.mktemp("quantize"))


def test_a_plan_that_apply_takes(call, task, tmp_path):
    plan = tmp_path / "plan.json"
    code, out, err = call("quantize", task, "--weights", 4, "--activations", 6, "--output", plan, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["layers"]
    assert [(row["layer"], row["weight bits"], row["activation bits"]) for row in rows] == [
        ("conv1", 8, 8),
        ("conv2", 4, 6),
        ("head", 8, 8),
    ]
    decided = Plan.from_json(plan.read_bytes(), where="plan")
    assert [decision.weight.bits for decision in decided.layers] == [8, 4, 8]
    code, out, err = call("apply", task, plan, "--json")
    assert code == 0, err
    moved = json.loads(out)["distance"]
    assert 0 < moved["divergence"] < 0.1
    assert moved["weights"]["conv2"] > moved["weights"]["conv1"] > 0
    code, out, err = call("apply", task, plan)
    assert "outputs moved by" in out
    assert "(conv2)" in out


def test_mixed_precision_with_statistics(call, task, tmp_path):
    plan = tmp_path / "plan.json"
    options = ("--average", 5, "--sensitivity", "fisher", "--ends", "none", "--keep", "head", "-o", plan)
    code, out, err = call("quantize", task, *options)
    assert code == 0, err
    assert [line.split()[0] for line in err.splitlines()] == ["statistics", "sensitivity"]
    assert "float" in next(line for line in out.splitlines() if "head" in line)
    bits = {d.layer: d.weight.bits for d in Plan.from_json(plan.read_bytes(), where="plan").layers}
    assert sum(bits[name] * n for name, n in (("conv1", 288), ("conv2", 13824))) <= 5 * (288 + 13824)


def test_what_is_asked_wrongly_is_refused(call, task, tmp_path):
    plan = tmp_path / "plan.json"
    for said, *options in (
        ("--weights: bits are a whole number from 1 to 16 or 'float', got 'four'", "--weights", "four"),
        ("--choices: bits are a whole number from 1 to 16, got '0'", "--average", 4, "--choices", "4,0"),
        ("--granularity: unknown 'row'; give channel, tensor, network, or a block", "--granularity", "row"),
        ("keep: unknown layer 'conv9'; near matches: conv", "--keep", "conv9"),
        ("16 bits (1, -1) is not executed by target 'onnxruntime'", "--weights", 16),
        ("unknown sensitivity 'taste'; known: divergence, fisher, hessian", "--average", 4, "--sensitivity", "taste"),
        ("neither weights nor activations", "--weights", "float", "--activations", "float"),
    ):
        code, out, err = call("quantize", task, *options, "-o", plan, "--quiet")
        assert (code, out) == (2, ""), said
        assert said in err.replace("\n", " ")
        assert len(err.splitlines()) == 1
    assert not plan.exists()
