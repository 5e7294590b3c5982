"""Names to classes and functions, imported only when asked for."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from trimtab.errors import ConfigError, MissingPackageError


class Registry:
    """Maps a name to `"module:attribute"`; refuses duplicates; an unknown name lists the known ones.

    `extra` is the optional dependency group to name when an entry's module needs a package that is missing.
    """

    def __init__(self, kind: str, entries: dict[str, str] | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, str] = {}
        self._extras: dict[str, str] = {}
        for name, target in (entries or {}).items():
            self.register(name, target)

    def register(self, name: str, target: str, *, extra: str = "") -> None:
        """Add an entry. Raises: ConfigError when the name is taken or `target` is not `module:attribute`."""
        if name in self._entries:
            raise ConfigError(
                f"{self.kind} {name!r} is already registered as {self._entries[name]}; choose another name"
            )
        if target.count(":") != 1:
            raise ConfigError(f"{self.kind} {name!r}: target {target!r} is not of the form 'module:attribute'")
        self._entries[name] = target
        self._extras[name] = extra

    def load(self, name: str) -> Any:
        """What is behind `name`. Raises: ConfigError for an unknown name, MissingPackageError for a missing extra."""
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} {name!r}; known: {', '.join(sorted(self._entries))}")
        module, attribute = self._entries[name].split(":")
        try:
            return getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if self._extras[name] and not (error.name or "").startswith("trimtab"):
                remedy = f"pip install 'trimtab[{self._extras[name]}]'"
                raise MissingPackageError(f"{self.kind} {name!r} needs the package {error.name!r}; {remedy}") from error
            raise

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries
