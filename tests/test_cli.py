"""Every subcommand on a tiny task: what it prints, what it leaves behind, and how it refuses."""

import json
import re
import shutil
import sys
from importlib import import_module

import pytest
import torch

import tiny
from trimtab import cli
from trimtab.errors import TrimtabError
from trimtab.lower import load


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny.finished_run(tmp_path_factory)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be written to."""
    return shutil.copytree(finished[0].parent / "run", tmp_path / "copy")


@pytest.fixture
def call(monkeypatch, capsys):
    """`trimtab …` in this process: exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        capsys.readouterr()
        with tiny.quick():
            try:
                cli.main()
                code = 0
            except SystemExit as ended:
                code = ended.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def refuses(call):
    """Assert that `trimtab …` ends with exit code 2 and, after what the stages said, one line that matches."""

    def refuses(match, *arguments):
        code, out, err = call(*arguments)
        assert code == 2, (code, out, err)
        assert out == ""
        assert re.search(match, err), err
        *stages, error = err.splitlines()
        assert error.startswith("error: ")
        assert all(re.fullmatch(r"\w+ +\d+\.\d s", line) for line in stages)

    return refuses


def test_inspect_shows_groups_and_what_is_frozen(call, finished):
    code, out, _ = call("inspect", finished[0], "--json")
    shown = json.loads(out)
    assert code == 0
    assert [group["group"] for group in shown["groups"]] == ["conv1", "conv2"]
    assert shown["groups"][0]["width"] == 32
    assert shown["groups"][0]["unit_size"] == 1
    assert {"parameter": "conv1.weight", "dim": 0, "role": "out"} in shown["groups"][0]["members"]
    assert 0.9 < shown["prunable"]["parameters"] < 1
    assert 0.9 < shown["prunable"]["macs"] < 1
    assert shown["macs"] > shown["parameters"]
    assert any(axis["name"] == "head" for axis in shown["frozen"])
    code, out, err = call("inspect", finished[0])
    assert code == 0
    assert "channel groups" in out
    assert "conv2" in out
    assert re.search(r"[\d,]+ parameters and [\d,]+ multiply-accumulates", out)
    assert err == ""


def test_compress_says_when_a_budget_is_not_met(call, finished, tmp_path):
    where = tmp_path / "run"
    code, out, err = call("compress", finished[0], "--size", "0.5%", "--epochs", 1, "--run", where, "--json")
    assert code == 3
    result = json.loads(out)
    assert result["met"] is False
    assert "the smallest size within reach" in result["why"]
    assert "size is" in result["why"]
    assert len(result["frontier"]) >= len(tiny.LADDER)
    assert {point["recovered"] for point in result["frontier"]} == {False, True}
    assert err == ""
    assert (where / "model.onnx").is_file()
    details = json.loads((where / "details.json").read_text())
    assert details["command"] == (
        f"trimtab compress {finished[0]} --size 0.005x --epochs 1 --target onnxruntime --seed 0"
    )


def test_one_limit_may_list_several(call, finished, tmp_path):
    where = tmp_path / "family"
    limits = ("--size", "60%,50%", "--drop", "0.5")
    code, out, err = call("compress", finished[0], *limits, "--no-recover", "--run", where, "--json")
    assert code == 0, err
    assert [len(result["budget"]["limits"]) for result in json.loads(out)] == [2, 2]
    assert sorted(path.name for path in where.iterdir()) == ["drop-0.5-size-0.5x", "drop-0.5-size-0.6x"]


@pytest.fixture
def asked(call, finished, monkeypatch, tmp_path):
    """`trimtab compress` up to the call of `compress`: (target, batch, threads, budget)."""

    def asked(*arguments):
        seen = {}

        def stop(_, **given):
            seen.update(given)
            raise TrimtabError("stopped")

        with monkeypatch.context() as patched:
            patched.setattr(import_module("trimtab.compress"), "compress", stop)
            patched.setattr(import_module("trimtab.measure"), "usable_cores", lambda: 7)
            code, _, err = call("compress", finished[0], *arguments)
        assert code == 2
        assert "stopped" in err
        options = seen["options"]
        return seen["target"], options.batch, options.threads, str(seen["budget"])

    return asked


def test_a_scenario_gives_what_is_left_open(asked):
    drop = ("--drop", "0.1")
    assert asked(*drop) == ("onnxruntime", 1, 1, "drop ≤ 0.1")
    assert asked(*drop, "--profile-for", "server") == ("onnxruntime", 32, 7, "drop ≤ 0.1")
    assert asked(*drop, "--profile-for", "mobile") == ("executorch", 1, 4, "drop ≤ 0.1")
    assert asked("--profile-for", "microcontroller") == ("onnxruntime", 1, 1, "size ≤ 5.12e+05")


def test_what_is_given_beside_a_scenario_wins(asked):
    given = ("--target", "openvino", "--batch", 1, "--threads", 2, "--drop", "0.1")
    assert asked("--profile-for", "server", *given) == ("openvino", 1, 2, "drop ≤ 0.1")
    target, _, _, budget = asked("--profile-for", "microcontroller", "--size", "9kB", "--drop", "0.1")
    assert (target, budget) == ("onnxruntime", "drop ≤ 0.1, size ≤ 9000")


def test_two_limits_may_not_both_list_several(refuses, finished):
    limits = ("--size", "6%,5%", "--macs", "9%,8%")
    refuses("budget: size and macs both list several values", "compress", finished[0], *limits)


def test_profile_then_search_then_recover_then_lower_then_prove(call, finished, tmp_path):
    """The stages one by one end where `compress` ends."""
    where = tmp_path / "run"
    code, out, err = call("profile", finished[0], "--size", "11kB", "--drop", "0.1", "--run", where)
    assert code == 0, err
    assert "conv1" in out
    assert (where / "profile.json").is_file()
    code, out, err = call("search", where, "--json")
    assert code == 0, err
    assert json.loads(out)["predicted"]["size"] <= 11000
    code, out, _ = call("search", where, "--size", "0.1%")
    assert code == 3
    code, out, err = call("recover", where, "--quiet")
    assert (code, out, err) == (0, "", "")
    code, out, err = call("recover", where, "--json")  # not trained twice
    assert code == 0
    assert json.loads(out)["costs"]["size"] <= 11000
    code, out, err = call("lower", where, "--json")
    assert code == 0
    lowered = json.loads(out)
    assert lowered["file_bytes"] == (where / "model.onnx").stat().st_size
    code, out, err = call("prove", where, "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 128


def test_latency_may_come_from_where_the_network_will_run(call, refuses, finished, tmp_path, monkeypatch):
    """`profile` there, `compress` here: nothing is timed here, and the result says so."""
    there, table, here = tmp_path / "there", tmp_path / "there" / "profile.json", tmp_path / "here"
    code, _, err = call("profile", finished[0], "--drop", "0.5", "--run", there, "--quiet")
    assert code == 0, err
    written = json.loads(table.read_text())
    assert written["latency_fit"]["median_error"] is not None
    assert len(written["latency_table"]) > 10
    written["baseline"]["latency"] = 100.0  # a slow machine
    written["latency_fit"] = {"of_sum": 0.0, "of_macs": 2e-4}
    table.write_text(json.dumps(written))

    def forbidden(*_, **__):
        raise AssertionError("timed here")

    for module, name in (("judge", "latencies"), ("conclude", "latencies"), ("conclude", "hotspots")):
        monkeypatch.setattr(import_module(f"trimtab.{module}"), name, forbidden)
    monkeypatch.setattr(import_module("trimtab.search.profile"), "time_layers", forbidden)
    command = ("compress", finished[0], "--latency", "40ms", "--no-recover")
    code, out, err = call(*command, "--latency-table", table, "--run", here, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["notes"] == [f"latency: predicted from {here / 'latency.json'}, not measured here"]
    assert result["baseline"]["latency_ms"] == 100
    assert result["compressed"]["latency_ms"] == pytest.approx(2e-4 * result["compressed"]["macs"])
    assert result["compressed"]["latency_ms"] <= 40
    assert f"--latency-table {here / 'latency.json'}" in json.loads((here / "details.json").read_text())["command"]
    kept = (here / "model.onnx").read_bytes()
    copy = shutil.copy(table, tmp_path / "copy.json")  # the same content elsewhere is the same run
    assert call(*command, "--latency-table", copy, "--run", here, "--quiet")[0] == 0
    assert (here / "model.onnx").read_bytes() == kept
    assert call("search", here, "--quiet")[0] == 0
    refuses("is a run with options", *command, "--run", here)
    other = ("--latency-table", table, "--run", tmp_path / "other")
    refuses(r"profile\.json: has the latency of .*, not of .*batch 2", *command, "--batch", 2, *other)
    assert not (tmp_path / "other").exists()
    wider = tiny.write_task(tmp_path, "wider.py", tiny.SOURCE.replace("48", "56"))
    refuses(r"latency\.json: is the profile of the network .*, this one is", "compress", wider, *command[2:], *other)


def test_the_subcommands_give_again_what_compress_gave(call, run):
    kept = (run / "model.onnx").read_bytes()
    (run / "model.onnx").unlink()
    assert call("lower", run, "--quiet") == (0, "", "")
    assert (run / "model.onnx").read_bytes() == kept
    code, out, _ = call("prove", run)
    assert code == 0
    assert "integer_ops" in out
    (run / "report.html").unlink()
    code, out, _ = call("report", run)
    assert code == 0
    assert out.strip().endswith("report.html")
    assert "<html" in (run / "report.html").read_text()


def test_apply_verifies_the_cut(call, finished, run):
    code, out, err = call("apply", finished[0], run / "plan.json", "--json")
    assert code == 0, err
    applied = json.loads(out)
    before, after = applied["applied"]["MACs"]
    assert after < before
    assert applied["cut"]["exact"] is True
    assert applied["cut"]["max_abs_diff"] < 1e-9
    code, out, _ = call("apply", finished[0], run / "plan.json")
    assert "equals the masked original" in out


def test_prune_writes_a_plan_that_apply_takes(call, finished, tmp_path):
    plan = tmp_path / "plan.json"
    options = ("--remove", "50%", "--of", "macs", "--output", plan)
    code, out, err = call("prune", finished[0], *options, "--json")
    assert (code, err) == (0, "")
    before, after = json.loads(out)["pruned"]["MACs"]
    assert after <= before / 2
    code, out, err = call("apply", finished[0], plan, "--json")
    assert json.loads(out)["applied"]["MACs"] == [before, after]
    curves = tmp_path / "curves.json"
    options = ("--remove", 0.6, "--criterion", "taylor", "--allocation", "sensitivity", "--curves", curves, "-o", plan)
    code, out, err = call("prune", finished[0], *options)
    assert code == 0, err
    assert "zero weights" in out
    assert [line.split()[0] for line in err.splitlines()] == ["statistics", "curves"]
    first = plan.read_text()
    code, out, err = call("prune", finished[0], *options)
    assert [line.split()[0] for line in err.splitlines()] == ["statistics"]
    assert plan.read_text() == first
    code, out, err = call("prune", finished[0], "--granularity", "2:4", "-o", plan, "--quiet")
    assert (code, out, err) == (0, "", "")


def test_prune_refuses_amounts_that_say_nothing_or_too_much(refuses, finished, tmp_path):
    begin = ("prune", finished[0], "--output", tmp_path / "plan.json")
    refuses("channels needs an amount", *begin)
    refuses(r"--remove: a share above 0 and below 1 is needed, got '50'; give 50% or 0\.5", *begin, "--remove", "50")
    refuses("got 'half'", *begin, "--remove", "half")
    refuses("one of them says how much", *begin, "--remove", "50%", "--count", 3)
    refuses("--of: says what --remove is a share of", *begin, "--count", 3, "--of", "macs")
    refuses("leave: unknown group 'conv9'", *begin, "--count", 3, "--leave", "conv9")
    assert not (tmp_path / "plan.json").exists()


def test_measure_a_file(call, finished, run):
    code, out, err = call("measure", run / "model.onnx", "--task", finished[0], "--batch", 2, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["metric"] == finished[1].compressed.metric
    assert found["file_bytes"] == finished[1].compressed.file_bytes
    assert found["batch"] == 2
    assert found["latency_ms"] > 0


def test_a_task_or_file_that_is_not_there(refuses, tmp_path, finished):
    refuses("unknown task 'digit'; known: digits, or give path", "inspect", "digit")
    refuses(r"none\.py: no such file", "compress", tmp_path / "none.py", "--drop", "0.1")
    refuses(r"plan\.json: No such file or directory; give the path", "apply", finished[0], tmp_path / "plan.json")
    refuses("model.onnx: No such file", "measure", tmp_path / "model.onnx", "--task", finished[0])
    for command in ("search", "recover", "lower", "prove"):
        refuses(r"none: no run here .*give the folder", command, tmp_path / "none")
    refuses(r"result\.json: No such file", "report", tmp_path / "none")
    assert not (tmp_path / "none").exists()


TASKS = {
    "def task(): return 3": "the task function must return a trimtab Task, got int",
    "def task():\n    raise ValueError('no data here')": r"bad\.py:2: the task function raised ValueError: no data",
    "import torch, nothing_such": r"bad\.py:1: importing it raised ModuleNotFoundError",
    "train=[]": "train is empty; give at least one batch",
    "train=[(x * float('nan'), y) for x, y in train]": "train: the inputs of the first batch: 4096 of 4096 .* NaN",
    "train=[(x, y[:3]) for x, y in train]": r"inputs float32\[64, 1, 8, 8\] and target int64\[3\]",
    "train=[(x, y.float()[:, None]) for x, y in train]": r"the loss raised .* target float32\[64, 1\]",
    "train=train, example=torch.zeros(3, 2, 8, 8)": r"bad\.py:17 in forward: .*expected input.* to have 1 channels",
}


@pytest.mark.parametrize("change", TASKS)
def test_a_task_that_cannot_be_used(refuses, tmp_path, change):
    source = change if "task" in change or "import" in change else tiny.SOURCE.replace("train=train", change)
    path = tiny.write_task(tmp_path, "bad.py", source)
    refuses(TASKS[change], "compress", path, "--drop", "0.1", "--run", tmp_path / "run")
    assert not (tmp_path / "run" / "profile.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loss=lambda outputs, y: F.cross_entropy(outputs, y) / 0", "on the first batch of train the loss is inf"),
        ("loss=lambda outputs, y: outputs", r"the loss must be a scalar tensor, got float32\[64, 4\]"),
    ],
)
def test_a_loss_that_cannot_be_used(refuses, tmp_path, change, message):
    path = tiny.write_task(tmp_path, "bad.py", tiny.SOURCE.replace("loss=F.cross_entropy", change))
    for command in (("compress", path, "--drop", "0.1", "--run", tmp_path / "run"), ("inspect", path)):
        refuses(message, *command)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing is limited; give at least one of drop, size"),
        (("--drop", "much"), r"cannot read drop 'much'; write it like 0\.01"),
        (("--drop=-0.1",), "drop '-0.1' is below 0"),
        (("--size", "10"), "cannot read size '10'; write it like 10% or 64kB"),
        (("--size", "0%"), "size '0%' leaves nothing"),
        (("--latency", "0ms"), "latency '0ms' leaves nothing"),
        (("--drop", "0.1", "--target", "abacus"), "unknown target 'abacus'; known: .*onnxruntime"),
        (("--profile-for", "toaster"), "unknown scenario 'toaster'; known: microcontroller, mobile, server"),
        (("--drop", "0.1", "--criterion", "luck"), "unknown criterion 'luck'; known: ablation, activation"),
        (("--size", "9kB", "--refine", "luck"), "refine: Input should be 'none', 'tpe', 'grid', .*, got 'luck'"),
        (("--drop", "0.1", "--refine", "grid"), "refine 'grid': plans are refined under limits on costs"),
    ],
)
def test_a_budget_or_an_option_that_cannot_be_used(refuses, finished, tmp_path, options, message):
    refuses(message, "compress", finished[0], *options, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("compress",),
        ("compress", "digits", "--speed", "9"),
        ("compress", "digits", "--seed", "-1"),
        ("inspect", "digits", "--set", "epochs"),
        ("fly",),
    ],
)
def test_wrong_usage_ends_with_2(call, arguments):
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    assert "Usage" in err or "Error" in err


def contents(run):
    """Every file of a run's folder but the lock."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(run): path.read_bytes() for path in files}


def test_a_folder_of_another_run(refuses, finished, run):
    command = ("compress", finished[0], *tiny.COMMAND, "--run", run)
    before = contents(run)
    refuses("is a run with seed 0, not 1; give another --run, or delete the folder", *command, "--seed", 1)
    refuses("is a run with budget", *command[:2], "--drop", "0.5", "--run", run)
    assert contents(run) == before


def test_a_plan_for_another_network(refuses, finished, run, tmp_path):
    wider = tiny.write_task(tmp_path, "wider.py", tiny.SOURCE.replace("48", "56"))
    refuses(
        "plan: it is for the network .*, this one is .*; use the plan's own task", "apply", wider, run / "plan.json"
    )
    (run / "plan.json").write_text('{"schema": 1}')
    refuses(r"plan\.json: fingerprint: Field required", "apply", finished[0], run / "plan.json")


def test_a_run_without_an_attempt_or_a_profiled_quantity(refuses, finished, run, tmp_path):
    refuses("latency was not measured in this profile; profile again", "search", run, "--latency", "2ms")
    journal = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join(line for line in journal if '"attempt ' not in line))
    refuses("nothing was carried out yet; run `trimtab recover` on it first", "lower", run)


def test_a_changed_model_is_noticed(refuses, finished, tmp_path, run):
    """The task file of the run now trains for longer."""
    path = finished[0]
    before = path.read_text()
    try:
        path.write_text(before.replace("range(3)", "range(4)"))
        refuses("is a run of a network with other weights", "prove", run)
    finally:
        path.write_text(before)


def test_errors_are_shown_as_they_are(refuses, monkeypatch):
    def fail(*_):
        raise TrimtabError("[bold]here[/]: " + "long " * 60 + "end")

    monkeypatch.setattr(cli, "task_of", fail)
    refuses(r"^error: \[bold\]here\[/\]: long .* end\n$", "inspect", "digits")


def test_pack_and_unpack(call, refuses, run, tmp_path):
    file = tmp_path / "small.trim"
    code, out, err = call("pack", run, "--out", file, "--precision", 23, "--json")
    assert code == 0, err
    packed = json.loads(out)
    assert packed["bytes"] == file.stat().st_size < (run / "model.onnx").stat().st_size
    assert packed["quantized"]
    assert packed["metric on val"] == packed["metric on val before"]
    code, out, err = call("unpack", file, "--json")
    assert code == 0, err
    assert json.loads(out)["artifact"] == str(tmp_path / "small.onnx")
    x = torch.rand(40, 1, 8, 8)
    before, after = (load("onnxruntime", each)(x) for each in (run / "model.onnx", tmp_path / "small.onnx"))
    assert torch.equal(before, after)
    code, out, err = call("inspect", file)
    assert code == 0, err
    assert list(json.loads(out)) == ["inputs", "tensors", "nodes"]
    code, out, _ = call("pack", run, "--out", file)
    assert code == 0
    assert f"{file.stat().st_size} bytes; metric on val" in out.replace("\n", "")
    refuses(r"none\.trim: cannot be read", "unpack", tmp_path / "none.trim")


def test_torch_is_not_loaded_for_help():
    code, out, _ = tiny.call("--help")
    assert code == 0
    assert all(name in out for name in ("compress", "inspect", "profile", "search", "apply", "recover", "lower"))
    assert torch.get_num_threads() == 1
