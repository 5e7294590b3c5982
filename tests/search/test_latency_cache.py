"""Kernels are timed once a machine, runtime, batch and number of threads."""

import json
from pathlib import Path

import pytest
from search_nets import Mixed, captured, profile_of

from trimtab.lower import target
from trimtab.search import latency_table
from trimtab.search.latency_cache import Timer, keep_times, known_times
from trimtab.search.latency_table import needed_times, time_layers


@pytest.fixture
def timer(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Timer.here("onnxruntime 1", target("onnxruntime"))


def test_times_come_back_for_the_same_timer_alone(timer, tmp_path):
    assert known_times(timer) == {}
    keep_times(timer, {"a": 0.5})
    keep_times(timer, {"b": 0.25})
    assert known_times(timer) == {"a": 0.5, "b": 0.25}
    for changed in ({"cpu": "another"}, {"runtime": "onnxruntime 2"}, {"batch": 2}, {"threads": 2}):
        assert known_times(timer.model_copy(update=changed)) == {}
    assert timer.file.parent == tmp_path / "trimtab" / "latency"
    assert json.loads(timer.file.read_text())["timer"]["batch"] == 1


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b'{"times": {"a": 1.0}}', b'{"timer": 3, "times": {}}'])
def test_a_damaged_file_is_ignored_and_replaced(timer, content):
    timer.file.parent.mkdir(parents=True)
    timer.file.write_bytes(content)
    assert known_times(timer) == {}
    keep_times(timer, {"a": 0.5})
    assert known_times(timer) == {"a": 0.5}


def test_a_folder_that_cannot_be_written_is_done_without(timer):
    timer.file.parent.parent.write_text("a file where the folder should be")
    keep_times(timer, {"a": 0.5})
    assert known_times(timer) == {}


def test_home_where_no_cache_folder_is_named(timer, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Path.home() / ".cache" in timer.file.parents


def test_a_kernel_is_timed_once(timer, monkeypatch):
    profile = profile_of(captured(Mixed()))
    needed = dict(sorted(needed_times(profile.units, profile.layers).items())[:3])
    seen = []
    monkeypatch.setattr(latency_table, "_time", lambda artifact, x: seen.append(x) or 100.0 - len(seen))
    fewer = dict(list(needed.items())[:2])
    least = (95.0, 94.0, 91.0)  # of three passes each: over two kernels, then over the one that is new
    assert time_layers(fewer, target("onnxruntime"), lambda: None) == dict(zip(fewer, least[:2], strict=True))
    assert time_layers(needed, target("onnxruntime"), lambda: None) == dict(zip(needed, least, strict=True))
    assert time_layers(fewer, target("onnxruntime"), lambda: None) == dict(zip(fewer, least[:2], strict=True))
    assert len(seen) == 9
    two = target("onnxruntime").model_copy(update={"batch": 2})
    assert time_layers(fewer, two, lambda: None) == dict(zip(fewer, (86.0, 85.0), strict=True))
