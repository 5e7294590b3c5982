"""The run folder: everything that a run has found out, so that it can be killed at any moment and continued.

`journal.jsonl` is append-only: a header that says what the run is, then one event a line. What has been computed once
is read back from it (`remember`); files are replaced atomically (`write`); `lock` keeps a second process out.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from trimtab.errors import NumericsError, RunError
from trimtab.plan import Budget

SCHEMA = 1
JOURNAL = "journal.jsonl"
LOCK = "lock"


class Run:
    """An open run folder, locked for this process until it is closed (it is a context manager) or the process ends."""

    def __init__(self, path: Path, header: dict[str, Any] | None, lock: IO[str]) -> None:
        """Use `Run.open` or `Run.load`."""
        self.path = path
        self._lock = lock
        self._memory: dict[str, Any] = {}
        self._clocks = _Clocks()
        self._opened = time.monotonic()
        lines = _whole_lines(path / JOURNAL)
        self.header: dict[str, Any] = _checked_header(path, lines, header)
        for number, line in enumerate(lines[1:], start=2):
            self._replay(_parsed(path, number, line))
        self._journal = (path / JOURNAL).open("ab")
        if not lines:
            self._append(self.header)
            _sync_folder(path)
        self.record({"event": "open", "pid": os.getpid()})

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        task: str,
        settings: Mapping[str, str],
        target: str,
        seed: int,
        budget: Budget,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Create the folder, or continue the run in it. `options` is whatever else decides the result, as JSON.

        Raises: RunError when the folder holds something else: another run (the message says what differs), files that
                no run wrote, a damaged journal; or when another process is using it (the message has its pid).
        """
        header = {
            "schema": SCHEMA,
            "trimtab": version("trimtab"),
            "task": task,
            "settings": dict(settings),
            "target": target,
            "seed": seed,
            "budget": json.loads(budget.to_json()),
            "options": dict(options or {}),
        }
        folder = Path(path)
        _refuse_foreign_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return cls._locked(folder, header)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open the run in a folder, whatever its task. Raises: RunError when there is none, or it is in use."""
        folder = Path(path)
        if not (folder / JOURNAL).is_file():
            raise RunError(f"{folder}: no run here (no {JOURNAL}); give the folder that `trimtab compress --run` wrote")
        return cls._locked(folder, None)

    @classmethod
    def _locked(cls, folder: Path, header: dict[str, Any] | None) -> Self:
        lock = _take_lock(folder)
        try:
            return cls(folder, header, lock)
        except BaseException:
            lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder free. Closing twice is harmless."""
        self._journal.close()
        self._lock.close()

    @property
    def budget(self) -> Budget:
        """The budget in the header."""
        return Budget.from_json(json.dumps(self.header["budget"]), where=str(self.path / JOURNAL))

    def file(self, name: str) -> Path:
        """The path of a file in the run folder. Raises: RunError for a name that leads out of it."""
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise RunError(f"{self.path}: {name!r} is not the name of a file inside the run folder")
        return self.path / name

    def write(self, name: str, content: bytes | str) -> Path:
        """Replace a file atomically: whoever reads it sees the old content or the new, whenever this process dies."""
        return atomic_write(self.file(name), content)

    def read(self, name: str) -> bytes:
        """A file's content. Raises: RunError when the run has not got that far."""
        try:
            return self.file(name).read_bytes()
        except FileNotFoundError:
            raise RunError(
                f"{self.file(name)}: no such file; the run has not got that far, continue it first"
            ) from None

    def record(self, event: Mapping[str, Any]) -> None:
        """Append an event; it is on disk when this returns. Raises: NumericsError for NaN or infinity in it."""
        self._replay(self._append({**event, "clock": round(time.monotonic() - self._opened, 3)}))

    def remember(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value computed for `key`, now or in an earlier attempt at this run, as JSON gives it back."""
        if key not in self._memory:
            self.record({"event": "value", "key": key, "value": compute()})
        return self._memory[key]

    def remembered(self, prefix: str) -> list[tuple[str, Any]]:
        """Keys that begin with `prefix` and their values, in the order in which they were computed."""
        return [(key, value) for key, value in self._memory.items() if key.startswith(prefix)]

    def adopt(self, path: str | Path, prefixes: Iterable[str], files: Iterable[str]) -> None:
        """Take over from the run in `path` what it has computed for keys with these prefixes, and its `files`.

        What this run has already stays. Raises: RunError when the other is of another network, target, seed
        or options, or with limits on other quantities.
        """
        with Run.load(path) as other:
            if self._kind != other._kind:
                raise RunError(
                    f"{path}: is a run of another network, target, seed or options, or its budget limits other "
                    "quantities; profile anew, without it"
                )
            for name in files:
                if other.file(name).exists() and not self.file(name).exists():
                    self.write(name, other.read(name))
            for key, value in (pair for prefix in prefixes for pair in other.remembered(prefix)):
                if key not in self:
                    self.record({"event": "value", "key": key, "value": value})

    @property
    def _kind(self) -> list[Any]:
        """What decides all that a run finds out, besides how tight its limits are."""
        quantities = sorted(limit.quantity for limit in self.budget.limits)
        return [*(self.header[what] for what in ("target", "seed", "options")), quantities, self.remembered("network")]

    def __contains__(self, key: object) -> bool:
        """Whether `remember` has a value for this key."""
        return key in self._memory

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside as spent on the stage `name`, added to that of earlier attempts."""
        self.record({"event": "begin", "stage": name})
        try:
            yield
        finally:
            self.record({"event": "end", "stage": name})

    def seconds(self) -> dict[str, float]:
        """Seconds spent on each stage, over all attempts; of a killed one, up to its last event."""
        return dict(self._clocks.seconds)

    def _append(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Write one line and return it as it will be read back."""
        try:
            line = json.dumps(event, allow_nan=False)
        except ValueError as error:
            named = event.get("key", event.get("event", "event"))
            raise NumericsError(f"{self.path}: NaN or infinity in {named!r} cannot be kept in the journal") from error
        self._journal.write(line.encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
        return dict(json.loads(line))

    def _replay(self, event: dict[str, Any]) -> None:
        self._clocks.see(event)
        if event.get("event") == "value":
            self._memory[event["key"]] = event["value"]


class _Clocks:
    """Adds up seconds by stage from events that carry `clock`, seconds since their attempt began."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._last = 0.0

    def see(self, event: dict[str, Any]) -> None:
        clock = event["clock"]
        if event["event"] == "open":
            self._open, self._last = [], clock
        for stage in self._open:
            self.seconds[stage] += clock - self._last
        self._last = clock
        if event["event"] == "begin":
            self._open.append(event["stage"])
            self.seconds.setdefault(event["stage"], 0.0)
        elif event["event"] == "end" and event["stage"] in self._open:
            self._open.remove(event["stage"])


def atomic_write(path: Path, content: bytes | str) -> Path:
    """Replace a file: whoever reads it sees the old content or the new, whenever this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)
    return path


def _refuse_foreign_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; a run needs a folder: give another --run")
    if folder.is_dir() and not (folder / JOURNAL).exists():
        other = sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK)
        if other:
            raise RunError(f"{folder}: holds files that no run wrote ({', '.join(other[:3])}); give another --run")


def _take_lock(folder: Path) -> IO[str]:
    lock = (folder / LOCK).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        lock.close()
        raise RunError(f"{folder}: is in use by process {pid}; wait for it, or give another --run") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _whole_lines(journal: Path) -> list[bytes]:
    """The complete lines; a last line without its end, from a process killed while writing it, is cut off the file."""
    if not journal.exists():
        return []
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(journal, whole)
    return content[:whole].splitlines()


def _checked_header(path: Path, lines: list[bytes], wanted: dict[str, Any] | None) -> dict[str, Any]:
    """The journal's header if it is the wanted one; the wanted one for a new journal."""
    if not lines:
        if wanted is None:
            raise RunError(f"{path / JOURNAL}: is empty; delete the folder and start the run again")
        return wanted
    found = _parsed(path, 1, lines[0])
    if found.get("schema") != SCHEMA or found.get("trimtab") != version("trimtab"):
        raise RunError(
            f"{path}: was written by trimtab {found.get('trimtab')} (schema {found.get('schema')}), "
            f"this is {version('trimtab')} (schema {SCHEMA}); give another --run, or delete the folder"
        )
    for key, value in (wanted or {}).items():
        if found.get(key) != value:
            raise RunError(
                f"{path}: is a run with {key} {_short(found.get(key))}, not {_short(value)}; "
                "give another --run, or delete the folder"
            )
    return found


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        event = error
    complete = isinstance(event, dict) and (number == 1 or {"event", "clock"} <= event.keys())
    if not complete:
        raise RunError(
            f"{path / JOURNAL}:{number}: is damaged ({line[:40]!r}…); give another --run, or delete the folder"
        )
    return dict(event)


def _short(value: Any) -> str:
    if isinstance(value, dict) and "limits" in value:
        return repr(str(Budget.from_json(json.dumps(value), where="journal")))
    return json.dumps(value)


def _sync_folder(folder: Path) -> None:
    """Make a new or replaced name in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
