"""The same command gives the same bytes: again, in another folder, in another process, and killed in every stage."""

import json
import shutil
import signal

import pytest

import tiny
from trimtab.compress import compress
from trimtab.tasks import load_task


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny.finished_run(tmp_path_factory)


def artifacts(run):
    return (run / "plan.json").read_bytes(), (run / "model.onnx").read_bytes()


def value(run, prefix):
    """Whether the last attempt at the run has worked out something whose key begins so."""
    return lambda: any(line.get("key", "").startswith(prefix) for line in tiny.events(run))


def begun(run, stage):
    return lambda: any(line["event"] == "begin" and line["stage"] == stage for line in tiny.events(run))


def test_a_fresh_process_in_another_folder_gives_the_same_bytes(finished, tmp_path):
    path, _ = finished
    code, out, err = tiny.call("compress", path, *tiny.COMMAND, "--run", tmp_path / "other", "--json")
    assert code == 0, err
    assert json.loads(out)["met"] is True
    assert artifacts(tmp_path / "other") == artifacts(path.parent / "run")


def test_a_run_that_is_stopped_in_every_stage_ends_with_the_same_bytes(finished, tmp_path):
    path, _ = finished
    run = tmp_path / "run"
    command = ("compress", path, *tiny.COMMAND, "--run", run)
    stops = [
        (value(run, "loss/"), signal.SIGKILL),
        (begun(run, "frontier"), signal.SIGINT),
        (lambda: any(run.glob("recover-*")), signal.SIGKILL),
        (begun(run, "lower"), signal.SIGKILL),
    ]
    for seen, how in stops:
        process = tiny.started(command)
        _, err = tiny.stop_when(process, seen, how)
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert err.splitlines()[-1] == "interrupted; nothing is lost: the same command continues where it stopped"
            assert "Traceback" not in err
        else:
            assert process.returncode == -signal.SIGKILL
        assert not (run / "result.json").exists()
    code, _, err = tiny.call(*command)
    assert code == 0, err
    assert artifacts(run) == artifacts(path.parent / "run")
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    keys = [line["key"] for line in journal if line.get("event") == "value"]
    assert len(keys) == len(set(keys))  # nothing was worked out twice


def test_a_finished_run_started_again_only_concludes(finished, tmp_path):
    path, result = finished
    run = tmp_path / "run"
    shutil.copytree(path.parent / "run", run)
    before = artifacts(run)
    with tiny.quick():
        again = compress(
            load_task(str(path)), budget=result.budget, run=run, options=tiny.OPTIONS, spec=str(path), seed=result.seed
        )
    assert artifacts(run) == before
    assert again.plan == result.plan
    assert again.drop == result.drop
    assert not any(line["event"] == "value" for line in tiny.events(run))
