"""A limit on the entropy-coded file: what is decided, what is delivered, and what the report says of it."""

import sys

import pytest

import tiny
from trimtab import cli
from trimtab.compress import compress
from trimtab.measure import evaluate
from trimtab.plan import Budget, Options
from trimtab.search import Profile, predicted
from trimtab.store import load
from trimtab.tasks import load_task


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run, its task and its result."""
    folder = tmp_path_factory.mktemp("stored")
    source = folder / "tiny_task.py"
    source.write_text(tiny.SOURCE)
    task = load_task(str(source))
    with tiny.quick():
        budget = Budget(stored_size="6kB", drop=0.1)
        result = compress(task, budget=budget, run=folder / "run", options=Options(epochs=2), spec=str(source))
    return folder / "run", task, result


def test_the_file_is_there_and_as_small_as_it_had_to_be(finished):
    run, task, result = finished
    assert result.met
    stored = result.stored
    assert stored.bytes == result.compressed.stored_bytes == (run / "model.trim").stat().st_size <= 6000
    assert result.baseline.stored_bytes > 4 * stored.bytes
    assert evaluate(load(stored.path), task.test, task.metric).value == stored.metric
    assert stored.metric >= result.baseline.metric - 0.1


def test_codes_are_paid_for_by_the_bit(finished):
    run, _, result = finished
    assert any(decision.price and decision.solver == "rate_distortion" for decision in result.plan.layers)
    profile = Profile.from_json((run / "profile.json").read_text(), where="profile.json")
    stored = predicted(profile, result.plan)["stored_size"]
    judged = [point.costs["stored_size"] for point in result.frontier if not point.recovered]
    assert stored == pytest.approx(min(judged, key=lambda size: abs(size - stored)), rel=0.25)


def test_the_report_shows_bytes_by_layer_and_kind(finished):
    run, _, result = finished
    parts = result.stored.parts
    assert sum(part.bytes for part in parts) == pytest.approx(result.stored.bytes, abs=40)
    assert {"conv1", "conv2", "head"} <= {part.layer for part in parts}
    assert {"header", "values", "scales", "biases"} <= {part.kind for part in parts}
    page = (run / "report.html").read_text()
    assert "The entropy-coded file, by layer" in page
    assert "entropy-coded file" in page


def test_the_command_line_takes_the_limit(finished, monkeypatch, capsys):
    run, _, _ = finished
    words = ("compress", run.parent / "tiny_task.py", "--stored-size", "6kB", "--drop", "0.1", "--epochs", "2")
    monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, words), "--run", str(run)])
    with tiny.quick(), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "entropy-coded file" in capsys.readouterr().out
