"""From the command line's TASK to a Task: a built-in name, or a function in the user's file."""

import inspect
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from trimtab.errors import TaskError, TrimtabError
from trimtab.registry import Registry
from trimtab.tasks.task import Task

TASKS = Registry("task")
TASKS.register("digits", "trimtab.tasks.digits:digits", extra="demo")

_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def load_task(spec: str, settings: Mapping[str, str] | None = None) -> Task:
    """The task behind `spec`: a name in `TASKS`, or `path/to/file.py[:function]` (default function: `task`).

    `settings` are passed as keywords, converted to the types that the function's parameters are annotated with.
    The task is named after the built-in or the file, and the settings: `cifar10_resnet-depth=20`.
    Raises: TaskError that names the user's file and line when it fails there.
    """
    settings = settings or {}
    in_file = re.fullmatch(r"(.*\.py)(?::(\w+))?", spec)
    if spec in TASKS:
        function, base = TASKS.load(spec), spec
        task = _built(function, spec, settings, file=inspect.getsourcefile(function) or "")
    elif in_file:
        file = Path(in_file[1])
        with _importable(file.parent):
            function = _function(file, in_file[2] or "task")
            task = _built(function, spec, settings, file=str(file.resolve()))
        base = file.stem + (f".{in_file[2]}" if in_file[2] not in {None, "task"} else "")
    else:
        raise TaskError(f"unknown task {spec!r}; known: {', '.join(TASKS)}, or give path/to/file.py[:function]")
    return replace(task, name=_name(base, settings))


def _function(file: Path, name: str) -> Callable[..., Any]:
    if not file.is_file():
        raise TaskError(f"{file}: no such file; a task is one of {', '.join(TASKS)}, or path/to/file.py[:function]")
    module_name = f"trimtab_task_{file.stem}"
    module_spec = spec_from_file_location(module_name, file)
    if module_spec is None or module_spec.loader is None:
        raise TaskError(f"{file}: cannot be imported as Python")
    module = module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses and torch look the module up by name
    try:
        module_spec.loader.exec_module(module)
    except TrimtabError:
        raise
    except Exception as error:
        raise TaskError(f"{_place(error, str(file.resolve()))}: importing it raised {_said(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise TaskError(
            f"{file}: no function {name!r}; it has {', '.join(found) or 'none'}: "
            f"write `def {name}(): return Task(...)` or name one as {file}:FUNCTION"
        )
    return function


def _built(function: Callable[..., Any], spec: str, settings: Mapping[str, str], *, file: str) -> Task:
    keywords = _keywords(function, spec, settings)
    try:
        task = function(**keywords)
    except TrimtabError:
        raise
    except Exception as error:
        raise TaskError(f"{_place(error, file)}: the task function raised {_said(error)}") from error
    if not isinstance(task, Task):
        raise TaskError(f"{spec}: the task function must return a trimtab Task, got {type(task).__name__}")
    return task


def _keywords(function: Callable[..., Any], spec: str, settings: Mapping[str, str]) -> dict[str, Any]:
    parameters = inspect.signature(function, eval_str=True).parameters
    named = {key: p for key, p in parameters.items() if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in settings:
        if key not in named and not takes_any:
            known = ", ".join(f"{k}={p.default!r}" if p.default is not p.empty else k for k, p in named.items())
            raise TaskError(f"{spec}: unknown setting {key!r}; known: {known or 'none'}")
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in settings:
            raise TaskError(f"{spec}: setting {key!r} has no default; give --set {key}=VALUE")
    return {key: _convert(text, named.get(key), f"{spec}: setting {key!r}") for key, text in settings.items()}


def _convert(text: str, parameter: inspect.Parameter | None, where: str) -> Any:
    """`text` as the parameter's annotated type; without an annotation as the type of its default, else as text."""
    kind: Any = str
    if parameter is not None and parameter.annotation is not parameter.empty:
        kind = parameter.annotation
    elif parameter is not None and parameter.default not in {parameter.empty, None}:
        kind = type(parameter.default)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise TaskError(f"{where} is a bool: true or false, got {text!r}")
        return _TRUTH[text.lower()]
    if kind not in {int, float, str, Path}:
        raise TaskError(f"{where} has the type {kind}; settings can be int, float, bool, str or Path")
    try:
        return kind(text)
    except ValueError:
        raise TaskError(f"{where} is of type {kind.__name__}, got {text!r}") from None


def _place(error: Exception, file: str) -> str:
    """`file.py:12`: the innermost line of the user's file that led to the error."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}:{lines[-1]}" if lines else file


def _said(error: Exception) -> str:
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _name(base: str, settings: Mapping[str, str]) -> str:
    """Usable as a folder's name."""
    parts = [base, *(f"{key}={settings[key]}" for key in sorted(settings))]
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """While a task file is loaded, files beside it can be imported, as when it is run as a script."""
    path = str(folder.resolve())
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)
