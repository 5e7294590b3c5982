import sys
import textwrap

import pytest

from trimtab.errors import MissingPackageError, TaskError
from trimtab.tasks import load_task

TASK = """
import torch
from trimtab.tasks import Task

def build(**said):
    model = torch.nn.Linear(3, 2)
    model.said = said
    rows = [(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))]
    return Task(model=model, train=rows, val=rows, test=rows, loss=torch.nn.functional.cross_entropy,
                metric=lambda outputs, target: 1.0)

def task(width: int = 8, rate: float = 0.5, fast: bool = False, name: str = "x", maybe: int | None = None, plain=3):
    return build(width=width, rate=rate, fast=fast, name=name, maybe=maybe, plain=plain)
"""


@pytest.fixture
def file(tmp_path):
    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_settings_take_the_annotated_types(file):
    given = {"width": "16", "rate": "1e-3", "fast": "Yes", "name": "7", "maybe": "4", "plain": "5"}
    task = load_task(str(file(TASK)), given)
    said = {"width": 16, "rate": 1e-3, "fast": True, "name": "7", "maybe": 4, "plain": 5}
    assert task.model.said == said
    assert {key: type(value) for key, value in task.model.said.items()} == {k: type(v) for k, v in said.items()}


def test_postponed_annotations_are_understood(file):
    path = file("from __future__ import annotations\n" + TASK)
    assert load_task(str(path), {"width": "16", "fast": "off"}).model.said["width"] == 16


def test_the_name_is_stable_and_fits_a_folder(file):
    path = file(TASK)
    assert load_task(str(path)).name == "mine"
    assert load_task(f"{path}:build").name == "mine.build"
    one = load_task(str(path), {"width": "9", "name": "a/b c"}).name
    other = load_task(str(path), {"name": "a/b c", "width": "9"}).name
    assert one == other == "mine-name=a_b_c-width=9"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": "3"}, r"unknown setting 'depth'; known: width=8, rate=0\.5, fast=False"),
        ({"width": "wide"}, "setting 'width' is of type int, got 'wide'"),
        ({"fast": "maybe"}, "setting 'fast' is a bool: true or false, got 'maybe'"),
    ],
)
def test_wrong_settings(file, settings, message):
    with pytest.raises(TaskError, match=message):
        load_task(str(file(TASK)), settings)


def test_a_setting_without_default_must_be_given(file):
    path = file(TASK + "\ndef needy(width: int): return build(width=width)\n")
    with pytest.raises(TaskError, match="setting 'width' has no default; give --set width=VALUE"):
        load_task(f"{path}:needy")
    assert load_task(f"{path}:needy", {"width": "2"}).model.said == {"width": 2}


def test_a_type_that_cannot_be_typed_in(file):
    path = file(TASK + "\ndef odd(widths: list[int] = []): return build()\n")
    with pytest.raises(TaskError, match="settings can be int, float, bool, str or Path"):
        load_task(f"{path}:odd", {"widths": "1,2"})


def test_what_is_not_there(file, tmp_path):
    with pytest.raises(TaskError, match=r"unknown task 'digit'; known: digits, or give path/to/file\.py"):
        load_task("digit")
    with pytest.raises(TaskError, match=r"no\.py: no such file"):
        load_task(str(tmp_path / "no.py"))
    with pytest.raises(TaskError, match=r"no function 'other'; it has build, task"):
        load_task(f"{file(TASK)}:other")


def test_an_error_names_the_line_of_the_users_file(file):
    path = file(
        """
        import json

        def task():
            helper()

        def helper():
            json.loads("{")
        """
    )
    with pytest.raises(TaskError, match=rf"{path}:8: the task function raised JSONDecodeError: Expecting"):
        load_task(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nimport nothing_like_this\n", r"mine\.py:2: importing it raised ModuleNotFoundError: No module named"),
        ("def task(:\n", r"mine\.py:1: importing it raised SyntaxError"),
        ("def task():\n    return 3\n", "must return a trimtab Task, got int"),
        ("def task():\n    raise RuntimeError\n", r"mine\.py:2: the task function raised RuntimeError$"),
    ],
)
def test_a_file_that_does_not_work(file, text, message):
    with pytest.raises(TaskError, match=message) as caught:
        load_task(str(file(text)))
    assert "\n" not in str(caught.value)


def test_our_own_errors_pass_as_they_are(file):
    path = file("from trimtab.errors import TaskError\ndef task():\n    raise TaskError('set the folder')\n")
    with pytest.raises(TaskError, match=r"^set the folder$"):
        load_task(str(path))


def test_files_beside_the_task_can_be_imported_and_the_path_is_put_back(file):
    file("WIDTH = 5\n", name="beside_the_task.py")
    path = file("from beside_the_task import WIDTH\n" + TASK + "\ndef five(): return build(width=WIDTH)\n")
    before = list(sys.path)
    assert load_task(f"{path}:five").model.said == {"width": 5}
    assert sys.path == before


def test_digits_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'trimtab\[demo\]'"):
        load_task("digits")
