"""Whole runs on a tiny task."""

import json
from dataclasses import replace

import onnx
import pytest
import torch

import tiny
from trimtab.apply import apply
from trimtab.compress import compress
from trimtab.errors import ConfigError, PlanError, RunError
from trimtab.family import compress_family
from trimtab.graph import capture
from trimtab.job import Job
from trimtab.lower import lower
from trimtab.measure import evaluate
from trimtab.plan import Budget, Options, Plan, Result
from trimtab.recover.checkpoint import digest
from trimtab.report import Stages
from trimtab.search import Profile, predicted
from trimtab.tasks import folds, load_task


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny.finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def task(finished):
    return load_task(str(finished[0]))


def run(task, folder, options=None, **limits):
    with tiny.quick():
        return compress(task, budget=Budget(**limits), run=folder, options=options or Options(epochs=1))


def test_a_budget_is_met_and_proved(finished):
    path, result = finished
    assert result.met
    assert result.why.startswith("every limit is kept")
    assert result.compressed.file_bytes <= 11000 < result.baseline.file_bytes
    assert result.drop.value <= 0.1
    assert result.proof.agreement >= 0.98
    assert result.proof.identical_rows == 1.0
    assert not {"Conv", "Gemm", "MatMul"} & set(result.proof.float_ops)
    assert (path.parent / "run" / "model.onnx").stat().st_size == result.compressed.file_bytes
    assert {"capture", "profile", "frontier", "recover", "lower", "prove", "total"} <= set(result.seconds)
    for name in ("plan.json", "profile.json", "result.json", "report.html"):
        assert (path.parent / "run" / name).stat().st_size > 100


def test_the_result_is_strict_json(finished):
    path, result = finished
    text = (path.parent / "run" / "result.json").read_text()
    assert Result.from_json(text, where="result.json") == result
    data = json.loads(text)
    assert data["schema"] == 1
    data["compressed"]["speed"] = 3
    with pytest.raises(ConfigError, match=r"result\.json: compressed\.speed"):
        Result.from_json(json.dumps(data), where="result.json")


def test_the_weights_in_the_file_are_integers_of_the_planned_widths(finished, task):
    path, result = finished
    smaller = apply(capture(task.model, task.train[0][0]), result.plan)
    bits = {decision.layer: decision.weight.bits for decision in result.plan.layers}
    assert set(bits.values()) <= {8, 4}  # fewer are packed as codes, of other sizes
    kinds = {8: onnx.TensorProto.INT8, 4: onnx.TensorProto.INT4}
    planned = sorted(
        (kinds[bits[layer.name]], smaller.module.get_parameter(layer.weight).numel()) for layer in smaller.layers
    )
    model = onnx.load(path.parent / "run" / "model.onnx")
    stored = sorted(
        (constant.data_type, onnx.numpy_helper.to_array(constant).size)
        for constant in model.graph.initializer
        if constant.data_type in kinds.values() and len(constant.dims) > 1
    )
    assert stored == planned
    in_bytes = sum(size * (1 if kind == onnx.TensorProto.INT8 else 0.5) for kind, size in stored)
    assert in_bytes < sum(p.numel() for p in task.model.parameters() if p.dim() > 1)


def test_the_plan_applied_again_gives_the_same_network(finished, task):
    path, result = finished
    plan = Plan.from_json((path.parent / "run" / "plan.json").read_text(), where="plan.json")
    assert plan == result.plan
    network = capture(task.model, task.train[0][0])
    one, other = apply(network, plan), apply(network, plan)
    assert one.fingerprint == other.fingerprint
    assert digest(one.state_dict()) == digest(other.state_dict())
    with Job.load(path.parent / "run", progress=Stages(quiet=True)) as job:
        trained = job.trained(*job.best())
    assert {k: v.shape for k, v in trained.state_dict().items()} == {k: v.shape for k, v in one.state_dict().items()}


def test_predicted_sizes_are_within_a_percent_of_the_files(finished):
    path, result = finished
    profile = Profile.from_json((path.parent / "run" / "profile.json").read_bytes(), where="profile.json")
    with Job.load(path.parent / "run", progress=Stages(quiet=True)) as job, tiny.quick():
        rungs = job.ladder()
    assert len(rungs) == len(tiny.LADDER)
    assert predicted(profile, result.plan)["size"] == pytest.approx(result.compressed.file_bytes, rel=0.01)
    for rung in rungs:
        costs = predicted(profile, rung.plan)
        for quantity in ("size", "macs", "bops"):
            assert costs[quantity] == pytest.approx(rung.judgement.costs[quantity], rel=0.01)


def test_without_recovery_nothing_is_trained_and_a_carved_test_split_is_noted(task, tmp_path):
    result = run(replace(task, test=None), tmp_path / "run", Options(recover=False), drop=0.5)
    assert result.met
    assert not any(point.recovered for point in result.frontier)
    assert not list((tmp_path / "run").glob("recover-*"))
    assert result.proof.rows == 64
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "no test split was given: 64 of the 128 rows of val" in written["notes"][0]


def test_a_budget_that_is_kept_already_changes_nothing(task, tmp_path):
    result = run(task, tmp_path / "run", size="200%", drop=0.0)
    assert result.met
    assert result.plan.layers == result.plan.groups == ()
    assert result.drop.value == 0
    assert "the network keeps every limit as it is" in result.notes[-1]
    assert result.proof.agreement == 1
    assert not list((tmp_path / "run").glob("recover-*"))


def test_a_budget_that_cannot_be_kept_names_the_nearest_on_each_side(task, tmp_path):
    result = run(task, tmp_path / "run", Options(recover=False), size="1%", macs="90%", drop=0.3)
    assert not result.met
    assert "the smallest size within reach is" in result.why
    assert "nearest on val: at size" in result.why


def test_with_a_confidence_the_bound_is_held_against_the_limit(task, tmp_path):
    result = run(task, tmp_path / "run", Options(recover=False, confidence=0.95), size="60%", drop=0.2)
    assert result.drop.confidence == 0.95
    assert result.drop.value <= result.drop.bound <= result.drop.ci95[1]
    assert result.met == (result.drop.bound <= 0.2)
    point = result.frontier[-1]
    assert point.drop >= 0


def test_a_limit_on_the_drop_alone_takes_the_smallest_network_that_keeps_it(task, tmp_path):
    model = task.model.train()
    before = digest(model.state_dict())
    modes = [module.training for module in model.modules()]
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    result = run(task, tmp_path / "run", drop=0.05)
    judged = [(point.costs["size"], point.drop) for point in result.frontier if point.recovered]
    kept = [size for size, drop in judged if drop <= 0.05 + 1e-9]
    assert kept
    assert result.compressed.file_bytes == min(kept)
    # Nothing of the caller's was changed.
    assert digest(model.state_dict()) == before
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads
    model.eval()


def test_latency_is_that_of_the_batch_and_threads_that_were_asked_for(task, tmp_path):
    result = run(task, tmp_path / "run", Options(recover=False, batch=16, threads=2), latency="50x", size="60%")
    assert (result.compressed.batch, result.compressed.threads) == (16, 2)
    assert (result.baseline.batch, result.baseline.threads) == (16, 2)


def test_a_family_is_profiled_once_and_each_of_its_budgets_is_answered_as_if_alone(task, tmp_path):
    budgets = [Budget(size="60%", drop=0.5), Budget(size="11kB", drop=0.5)]
    with tiny.quick():
        first, second = compress_family(task, budgets=budgets, run=tmp_path / "run", options=Options(recover=False))
    alone = run(task, tmp_path / "alone", Options(recover=False), size="11kB", drop=0.5)
    assert second.plan == alone.plan
    assert second.compressed.file_bytes == alone.compressed.file_bytes <= 11000 < first.compressed.file_bytes
    assert (tmp_path / "run" / "drop-0.5-size-11000" / "result.json").exists()
    assert "profile" in alone.seconds
    assert "profile" not in second.seconds
    with pytest.raises(ConfigError, match="limit the same quantities"):
        list(compress_family(task, budgets=[Budget(size="60%"), Budget(macs="60%")], run=tmp_path / "other"))
    with pytest.raises(RunError, match="is a run of another network, target, seed or options"):
        compress(task, budget=Budget(macs="60%"), run=tmp_path / "third", profiled=tmp_path / "alone")


LIMITS = {"size": "6kB", "bops": "1%"}


def judged_in(folder, kind):
    """Plans and judgements that a run has in its journal."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    values = {line["key"]: line["value"] for line in lines if line.get("event") == "value"}
    assert len(values) == sum(line.get("event") == "value" for line in lines)  # nothing was worked out twice
    return {key.removeprefix(kind): value for key, value in values.items() if key.startswith(kind)}


def test_refinement_is_never_worse_on_val_and_goes_on_after_a_kill(task, tmp_path, monkeypatch):
    plain = run(task, tmp_path / "plain", Options(recover=False), **LIMITS)
    options = Options(recover=False, refine="random", trials=3)
    result = run(task, tmp_path / "whole", options, **LIMITS)
    judged = judged_in(tmp_path / "whole", "judged ")
    delivered, own = (judged[each.plan.to_json()] for each in (result, plain))
    assert (delivered["drop"], delivered["divergence"]) <= (own["drop"], own["divergence"])
    assert result.met
    assert len(judged) == len(judged_in(tmp_path / "plain", "judged ")) + 3
    assert "refine" in result.seconds
    late = run(task, tmp_path / "late", options.model_copy(update={"minutes": 1e-3}), **LIMITS)
    assert late.plan == plain.plan

    compute, calls = Job.settled, []

    def killed(job, plan):
        calls.append(plan)
        if len(calls) == len(judged) - 1:
            raise KeyboardInterrupt
        return compute(job, plan)

    with monkeypatch.context() as patched:
        patched.setattr(Job, "settled", killed)
        with pytest.raises(KeyboardInterrupt):
            run(task, tmp_path / "killed", options, **LIMITS)
    assert len(judged_in(tmp_path / "killed", "judged ")) == len(judged) - 2
    again = run(task, tmp_path / "killed", options, **LIMITS)
    assert again.plan == result.plan
    assert judged_in(tmp_path / "killed", "judged ") == judged
    assert (tmp_path / "killed" / "model.onnx").read_bytes() == (tmp_path / "whole" / "model.onnx").read_bytes()


def test_the_best_of_a_refinement_are_trained_for_a_while_and_one_in_full(task, tmp_path):
    result = run(task, tmp_path / "run", Options(epochs=1, refine="grid", trials=3), **LIMITS)
    finals = judged_in(tmp_path / "run", "briefly trained ")
    assert 2 <= len(finals) <= 4
    value = finals[result.plan.to_json()]
    assert value["drop"] == min(other["drop"] for other in finals.values())
    assert len(judged_in(tmp_path / "run", "attempt 0 ")) == 1


def test_refinement_judges_on_folds(task, tmp_path):
    options = Options(epochs=1, refine="random", trials=2, folds=3)
    result = run(task, tmp_path / "run", options, **LIMITS)
    untrained, finals = (judged_in(tmp_path / "run", f"{kind} on 3 folds ") for kind in ("judged", "briefly trained"))
    assert len(untrained) == 3  # the MILP's own plan, and two others
    assert result.plan.to_json() in finals
    assert finals.keys() <= untrained.keys()
    same = {"target": "onnxruntime", "seed": 0, "options": options, "progress": Stages(quiet=True)}
    with Job.open(task, tmp_path / "run", budget=Budget(**LIMITS), **same) as job:
        plan = Plan.from_json(max(untrained), where="journal")
        drops = []
        for fold in folds(task, 3, 0):
            network = job.on(fold).settled(plan)
            artifact = lower(network, job.target, tmp_path / "fold.onnx")
            before = evaluate(job.float_artifact, fold.val, task.metric).value
            drops.append(before - evaluate(artifact, fold.val, task.metric).value)
        assert untrained[plan.to_json()]["drop"] == pytest.approx(sum(drops) / 3)


def test_several_limits_at_once(task, tmp_path):
    result = run(task, tmp_path / "run", Options(recover=False), latency="50x", macs="90%", bops="6%")
    assert result.met, result.why
    attempt = result.frontier[-1]
    assert set(attempt.costs) == {"size", "macs", "bops", "latency"}
    assert result.compressed.bops <= 0.06 * result.baseline.bops


def test_a_plan_for_another_network_is_refused(finished, task):
    other = task.model.__class__()
    other.head = torch.nn.Linear(192, 5)
    with pytest.raises(PlanError, match=r"plan: it is for the network .*; use the plan's own task"):
        apply(capture(other, task.train[0][0]), finished[1].plan)


@pytest.mark.parametrize("order", ["prune-then-quantize", "quantize-then-prune", "quantize-only", "prune-only"])
def test_every_order_delivers_what_it_trained(task, tmp_path, order):
    size = "60%" if order == "prune-only" else "9%"
    result = run(task, tmp_path / "run", Options(epochs=2, order=order), size=size, drop=0.5)
    assert result.met
    assert result.proof.agreement == 1.0
    cuts, rounds = result.plan.thins, bool(result.plan.layers)
    assert rounds == (order != "prune-only")
    assert cuts or order != "prune-only"
    assert not cuts or order != "quantize-only"
    trained = list((tmp_path / "run").glob("recover-*"))
    assert len(trained) == (2 if cuts and rounds else 1)
