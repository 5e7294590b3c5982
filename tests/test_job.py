"""The stages by themselves, and what a run folder refuses."""

import inspect
import json
import sys
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import nn

import tiny
import trimtab.judge
from trimtab.errors import CaptureError, ConfigError, MissingPackageError, NumericsError, RunError
from trimtab.job import Job
from trimtab.lower import TARGETS
from trimtab.measure import Timing
from trimtab.plan import Budget, Options
from trimtab.report import Stages
from trimtab.search import Judgement, widest_plan
from trimtab.search.profile import NEGLIGIBLE_LOSS, build_profile, measure_losses
from trimtab.tasks import load_task


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return load_task(str(tiny.write_task(tmp_path_factory.mktemp("task"))))


def opened(task, folder, *, budget=None, target="onnxruntime", seed=0, **options):
    return Job.open(
        task,
        folder,
        budget=budget or Budget(drop=0.1),
        target=target,
        seed=seed,
        options=Options(**options),
        progress=Stages(quiet=True),
    )


def refused(kind, match, task, folder, **changed):
    with pytest.raises(kind, match=match) as caught:
        opened(task, folder, **changed)
    assert "\n" not in str(caught.value)


def test_other_weights_or_another_structure_are_noticed(task, tmp_path):
    opened(task, tmp_path / "run").__exit__(None, None, None)
    kept = (tmp_path / "run" / "journal.jsonl").read_bytes()
    trained = replace(task, model=type(task.model)())
    trained.model.load_state_dict(task.model.state_dict())
    with opened(trained, tmp_path / "run"):
        pass
    with torch.no_grad():
        trained.model.head.bias[0] += 1e-3
    refused(RunError, "is a run of a network with other weights .*; restore the model", trained, tmp_path / "run")

    class Other(type(task.model)):
        def forward(self, x):
            return super().forward(x) * 2

    other = Other()
    other.load_state_dict(task.model.state_dict())
    other.eval()
    refused(RunError, "a network with other structure", replace(task, model=other), tmp_path / "run")
    assert (tmp_path / "run" / "journal.jsonl").read_bytes().startswith(kept)


def test_a_folder_of_another_run_is_refused(task, tmp_path):
    folder = tmp_path / "run"
    opened(task, folder).__exit__(None, None, None)
    refused(RunError, "is a run with seed 0, not 1; give another --run", task, folder, seed=1)
    refused(RunError, "is a run with budget .*drop ≤ 0.1.*not .*drop ≤ 0.2", task, folder, budget=Budget(drop=0.2))
    refused(RunError, 'is a run with task "python: tiny", not "python: another"', replace(task, name="another"), folder)
    refused(RunError, "is a run with options .*not", task, folder, epochs=3)
    journal = folder / "journal.jsonl"
    header, rest = journal.read_text().split("\n", 1)
    journal.write_text(json.dumps({**json.loads(header), "trimtab": "0.0.1"}) + "\n" + rest)
    refused(RunError, r"was written by trimtab 0\.0\.1 .*; give another --run, or delete the folder", task, folder)


def test_a_folder_in_use_is_refused_and_freed_after_an_error(task, tmp_path):
    with opened(task, tmp_path / "run"):
        refused(RunError, "in use by process", task, tmp_path / "run")
    refused(RunError, "with seed", task, tmp_path / "run", seed=1)
    with opened(task, tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_written(task, tmp_path):
    (tmp_path / "file").write_text("kept")
    refused(RunError, r"the folder cannot be written \(Not a directory\)", task, tmp_path / "file" / "run")
    refused(RunError, "is a file; a run needs a folder", task, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("kept")
    refused(RunError, r"holds files that no run wrote \(thesis\.txt\)", task, tmp_path / "full")
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "thesis.txt").read_text() == "kept"


def test_wrong_options_leave_no_folder(task, tmp_path):
    folder = tmp_path / "run"
    refused(ConfigError, "unknown criterion 'luck'; known: ablation, activation", task, folder, criterion="luck")
    refused(
        ConfigError, "criterion 'lamp' does not score channels; known that do: ablation", task, folder, criterion="lamp"
    )
    refused(ConfigError, "seed: must be 0 or more, got -1", task, folder, seed=-1)
    refused(ConfigError, "unknown target 'abacus'; known: .*onnxruntime", task, folder, target="abacus")
    for options in ({"minutes": 0.0}, {"epochs": 0}, {"rounds": 0}):
        refused(ConfigError, next(iter(options)), task, folder, **options)
    refused(
        ConfigError, "refine 'grid': plans are refined under limits on costs, got .*drop", task, folder, refine="grid"
    )
    refused(ConfigError, "refine: Input should be 'none', 'tpe', 'grid'.*, got 'luck'", task, folder, refine="luck")
    refused(
        ConfigError, "folds 5: plans are judged on folds where they are refined; add --refine", task, folder, folds=5
    )
    refused(ConfigError, "folds: .*greater than or equal to 2", task, folder, refine="grid", folds=1)
    with torch.no_grad():
        sick = type(task.model)()
        sick.conv1.weight[0] = torch.nan
    refused(NumericsError, r"weight conv1\.weight: 9 of 288 values are NaN", replace(task, model=sick), folder)
    assert not folder.exists()


def test_a_target_whose_package_is_missing(task, tmp_path, monkeypatch):
    monkeypatch.setattr(TARGETS, "_entries", dict(TARGETS._entries))
    monkeypatch.setattr(TARGETS, "_extras", dict(TARGETS._extras))
    TARGETS.register("abacus", "abacus_that_is_not_there.runtime:Core", extra="abacus")
    message = r"target 'abacus' needs the package 'abacus_that_is_not_there'; pip install 'trimtab\[abacus\]'"
    refused(MissingPackageError, message, task, tmp_path / "run", target="abacus")
    assert not (tmp_path / "run").exists()


def test_a_sampler_whose_package_is_missing(task, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "trimtab.search.sampling.learning", raising=False)
    message = r"sampler 'tpe' needs the package 'optuna'; pip install 'trimtab\[search\]'"
    refused(MissingPackageError, message, task, tmp_path / "run", budget=Budget(size="50%"), refine="tpe")
    assert not (tmp_path / "run").exists()


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        x = x.flatten(1)
        if x.sum() > 0:  # decided by data
            x = x * 2
        return self.head(x)


def test_a_model_that_cannot_be_captured_names_the_users_line_and_can_be_mended(task, tmp_path):
    model = Branching()
    lines, first = inspect.getsourcelines(Branching)
    line = next(n for n, text in enumerate(lines, first) if "# decided by data" in text)
    refused(CaptureError, rf"test_job\.py:{line}.*depends on the values", replace(task, model=model), tmp_path / "run")
    Branching.forward = lambda self, x: self.head(x.flatten(1))
    with opened(replace(task, model=model), tmp_path / "run") as job:
        assert job.network.layers[0].name == "head"


def test_a_network_without_layers_is_refused(task, tmp_path):
    class Idle(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).expand(-1, 4) * 2

    with (
        opened(replace(task, model=Idle()), tmp_path / "run") as job,
        pytest.raises(ConfigError, match="no convolution"),
    ):
        _ = job.profile


def test_latency_is_judged_side_by_side_on_the_scale_of_the_baseline(task, tmp_path, monkeypatch):
    times = iter([{"0": 8.0, "float": 8.0}, {"0": 6.0, "float": 24.0}])

    def timed(things, inputs, **_):
        return {
            name: Timing(median_ms=value, q25_ms=value, q75_ms=value, min_ms=value, runs=1)
            for name, value in next(times).items()
        }

    monkeypatch.setattr(trimtab.judge, "latencies", timed)
    budget = Budget(latency="0.3x")
    with opened(task, tmp_path / "run", budget=budget) as job:
        assert job.baseline["latency"] == 8.0
        # The machine is three times slower by now: a quarter of the float network's time is a quarter all the same.
        costs = job.judge.costs(job.float_artifact, job.network, None, job.baseline)
        assert costs["latency"] == pytest.approx(2.0)
        assert Judgement(costs=costs, drop=0.0).broken(budget, job.baseline) == []


def test_memory_that_cannot_be_measured_is_not_kept(task, tmp_path, monkeypatch):
    monkeypatch.setattr(trimtab.judge, "artifact_peak", lambda *_, **__: None)
    budget = Budget(memory="2x", drop=0.5)
    with opened(task, tmp_path / "run", budget=budget) as job:
        judged = job.judged(widest_plan(_unmeasured_profile(job)))
        assert "memory" not in judged.costs
        assert judged.broken(budget, job.baseline) == [budget.limit("memory")]


def _unmeasured_profile(job):
    with pytest.MonkeyPatch.context() as patched:
        module = import_module("trimtab.search.profile")
        patched.setattr(module, "measure_losses", lambda network, task, target, units, **_: units)
        return build_profile(
            job.network, job.task, job.target, baseline={}, progress=Stages(quiet=True), criterion="magnitude"
        )


def test_float_options_are_offered_only_where_integers_lose(task, tmp_path):
    with opened(task, tmp_path / "run") as job:
        units = _unmeasured_profile(job).units

        def losing(loss):
            asked = []

            def memo(key, compute):
                asked.append(key)
                return 0.0 if "32x32" in key else loss

            measured = measure_losses(job.network, job.task, job.target, units, memo=memo, advance=lambda steps=1: None)
            return asked, measured

        asked, measured = losing(NEGLIGIBLE_LOSS / 2)
        storing = {unit.name for unit in measured if unit.layers}
        assert storing
        assert all(o.weight is not None for unit in measured if unit.name in storing for o in unit.options)
        assert not any("32x32" in key for key in asked if key.split("/")[1] in storing)
        asked, measured = losing(NEGLIGIBLE_LOSS * 2)
        assert [len(unit.options) for unit in measured] == [len(unit.options) for unit in units]
        assert any("32x32" in key for key in asked if key.split("/")[1] in storing)


def test_whole_networks_are_timed_together_as_many_as_fit(task, tmp_path, monkeypatch):
    together = []

    def timed(things, inputs, **_):
        together.append(list(things))
        values = {name: 3.0 if name == "float" else 1.0 + int(name) for name in things}
        return {name: Timing(median_ms=v, q25_ms=v, q75_ms=v, min_ms=v, runs=1) for name, v in values.items()}

    monkeypatch.setattr(trimtab.judge, "latencies", timed)
    with opened(task, tmp_path / "run", budget=Budget(latency="0.3x")) as job:
        artifacts = [job.float_artifact] * 5
        assert job.judge.milliseconds(artifacts, {"latency": 6.0}) == [2.0, 4.0, 6.0, 8.0, 10.0]
        monkeypatch.setattr(trimtab.judge, "_TIMED_BYTES", 2 * job.float_artifact.file_bytes)
        assert job.judge.milliseconds(artifacts, {"latency": 6.0}) == [2.0, 4.0, 2.0, 4.0, 2.0]
    assert [len(names) - 1 for names in together] == [5, 2, 2, 1]
