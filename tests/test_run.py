import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import NumericsError, RunError
from trimtab.plan import Budget
from trimtab.run import JOURNAL, Run

WHAT = {"task": "digits", "settings": {"seed": "0"}, "target": "onnxruntime", "seed": 0}
BUDGET = Budget(drop=0.01, size="10%")


def opened(path, **changed):
    return Run.open(path, **{**WHAT, "budget": BUDGET, **changed})


def never():
    raise AssertionError("computed again")


def in_another_process(code, *arguments):
    """A Python process that runs `code` and is left alone."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


OPEN = """
import sys, time
from trimtab.plan import Budget
from trimtab.run import Run
run = Run.open(sys.argv[1], task="digits", settings={"seed": "0"}, target="onnxruntime", seed=0,
               budget=Budget(drop=0.01, size="10%"))
"""


def test_what_was_remembered_is_not_computed_again(tmp_path):
    with opened(tmp_path / "run") as run:
        fresh = run.remember("profile", lambda: {"losses": (1.5, 2), "name": "é\n"})
    with opened(tmp_path / "run") as run:
        assert "profile" in run
        assert run.remember("profile", never) == fresh == {"losses": [1.5, 2], "name": "é\n"}
        assert run.remember("other", lambda: None) is None
    with Run.load(tmp_path / "run") as run:
        assert run.remember("other", never) is None
        assert run.budget == BUDGET
        assert run.header["task"] == "digits"


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_exactly(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("run")
    with opened(path) as run:
        run.remember("x", lambda: value)
    with opened(path) as run:
        again = run.remember("x", never)
    assert again == value
    assert math.copysign(1, again) == math.copysign(1, value)


def test_nan_is_refused_and_the_journal_stays_whole(tmp_path):
    with opened(tmp_path) as run:
        with pytest.raises(NumericsError, match="'loss'"):
            run.remember("loss", lambda: [math.nan])
        assert run.remember("loss", lambda: 1.0) == 1.0
    with opened(tmp_path) as run:
        assert run.remember("loss", never) == 1.0


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_torn_last_line_is_forgotten(tmp_path, cut):
    with opened(tmp_path) as run:
        run.remember("kept", lambda: 1)
        run.remember("torn", lambda: 2)
    journal = tmp_path / JOURNAL
    os.truncate(journal, journal.stat().st_size - cut)
    with opened(tmp_path) as run:
        assert run.remember("kept", never) == 1
        assert "torn" not in run
        assert run.remember("torn", lambda: 3) == 3
    with opened(tmp_path) as run:
        assert run.remember("torn", never) == 3
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_torn_header_begins_anew(tmp_path):
    (tmp_path / JOURNAL).write_text('{"schema": 1, "trimt')
    with opened(tmp_path) as run:
        run.remember("x", lambda: 1)
    with opened(tmp_path) as run:
        assert run.remember("x", never) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "other.py"}, 'task "digits", not "other.py"'),
        ({"settings": {"seed": "1"}}, "settings"),
        ({"target": "openvino"}, "target"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"budget": Budget(drop=0.02)}, "budget 'drop ≤ 0.01, size ≤ 0.1x', not 'drop ≤ 0.02'"),
        ({"options": {"recover": False}}, "options"),
    ],
)
def test_another_run_in_the_folder_is_refused(tmp_path, changed, message):
    opened(tmp_path).close()
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(RunError, match=message) as caught:
        opened(tmp_path, **changed)
    assert "give another --run, or delete the folder" in str(caught.value)
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_run_of_another_version_is_refused(tmp_path):
    opened(tmp_path).close()
    journal = tmp_path / JOURNAL
    header, rest = journal.read_text().split("\n", 1)
    journal.write_text(json.dumps(json.loads(header) | {"trimtab": "0.0.1"}) + "\n" + rest)
    for attempt in (lambda: opened(tmp_path), lambda: Run.load(tmp_path)):
        with pytest.raises(RunError, match=r"written by trimtab 0\.0\.1"):
            attempt()


@pytest.mark.parametrize("line", ["not json", "[1, 2]", '{"event": "value"}'])
def test_a_damaged_line_is_named(tmp_path, line):
    opened(tmp_path).close()
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write(line + "\n")
    with pytest.raises(RunError, match=rf"{JOURNAL}:3: is damaged"):
        opened(tmp_path)


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"holds files that no run wrote \(thesis\.tex\)"):
        opened(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file"):
        opened(tmp_path / "thesis.tex")
    with pytest.raises(RunError, match="no run here"):
        Run.load(tmp_path)


def test_write_replaces_whole_files_and_stays_inside(tmp_path):
    with opened(tmp_path / "run") as run:
        run.write("plan.json", "one")
        run.write("plan.json", b"two")
        run.write("checkpoints/last.safetensors", b"\x00\xff")
        assert run.read("plan.json") == b"two"
        assert run.read("checkpoints/last.safetensors") == b"\x00\xff"
        with pytest.raises(RunError, match="has not got that far"):
            run.read("result.json")
        for name in ("../out", "/tmp/out", "a/../../out", ""):
            with pytest.raises(RunError, match="not the name of a file inside"):
                run.write(name, "x")
    names = {path.name for path in (tmp_path / "run").rglob("*")}
    assert names == {JOURNAL, "lock", "plan.json", "checkpoints", "last.safetensors"}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    with opened(tmp_path) as run:
        run.write("plan.json", "old")

        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            run.write("plan.json", "new")
        assert run.read("plan.json") == b"old"


def test_a_second_process_is_kept_out_until_the_first_is_killed(tmp_path):
    first = in_another_process(
        OPEN + "run.remember('x', lambda: 7)\nprint('open', flush=True)\ntime.sleep(60)", tmp_path
    )
    try:
        assert first.stdout.readline() == "open\n", first.stderr.read()
        with pytest.raises(RunError, match=rf"in use by process {first.pid};"):
            opened(tmp_path)
        with pytest.raises(RunError, match="in use"):
            Run.load(tmp_path)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    with opened(tmp_path) as run:
        assert run.remember("x", never) == 7
        with pytest.raises(RunError, match=rf"in use by process {os.getpid()};"):
            opened(tmp_path)


def test_killed_at_any_moment_it_loses_at_most_the_last_value(tmp_path):
    code = """
    for number in range(100000):
        run.remember(str(number), lambda: number)
        run.write("last.txt", str(number) * 1000)
        print(number, flush=True)
    """
    child = in_another_process(OPEN + textwrap.dedent(code), tmp_path)
    assert child.stdout.readline() == "0\n", child.stderr.read()
    time.sleep(0.3)
    child.send_signal(signal.SIGKILL)
    said, _ = child.communicate()
    done = int((said.split() or ["0"])[-1])
    with opened(tmp_path) as run:
        assert [run.remember(str(number), never) for number in range(done + 1)] == list(range(done + 1))
        assert str(done + 2) not in run
        assert run.read("last.txt").decode() in {str(number) * 1000 for number in (done, done + 1)}


def test_seconds_add_up_over_attempts_killed_ones_included(tmp_path):
    with opened(tmp_path) as run, run.stage("profile"):
        time.sleep(0.1)
    code = """
    with run.stage("profile"):
        time.sleep(0.2)
        run.record({"event": "note"})
        import os; os.kill(os.getpid(), 9)
    """
    in_another_process(OPEN + textwrap.dedent(code), tmp_path).communicate()
    with opened(tmp_path) as run:
        with run.stage("search"):
            time.sleep(0.05)
        seconds = run.seconds()
    assert 0.29 <= seconds["profile"] < 2.0
    assert 0.04 <= seconds["search"] < 1.0
    with Run.load(tmp_path) as run:
        assert run.seconds() == seconds


def test_a_stage_that_fails_still_counts(tmp_path):
    with opened(tmp_path) as run:
        with pytest.raises(ValueError, match="no"), run.stage("lower"):
            raise ValueError("no")
        assert run.seconds().keys() == {"lower"}
