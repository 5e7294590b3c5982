"""The base of every noun: frozen, keyword-only, strict JSON, and valid from birth."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from trimtab.errors import ConfigError


class Record(BaseModel):
    """Immutable data. Unknown keys and wrong types are errors, when built and when read from JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_one_line(type(self).__name__, error)) from error

    # pydantic's own mark for an __init__ that only validates: reading JSON then stays in JSON mode (lists for tuples).
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def to_json(self) -> str:
        """Pretty, stable, diffable JSON that ends in a newline."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> Self:
        """Read what `to_json` wrote; `where` (a file name) begins the message of a ConfigError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(_one_line(where, error)) from error


def _one_line(where: str, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":  # a rule of ours, whose message says what came
        return f"{where}: {place + ': ' if place else ''}{first['ctx']['error']}"
    came = "" if first["type"] in {"missing", "json_invalid"} else f", got {first['input']!r:.80}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {place + ': ' if place else ''}{first['msg']}{came}{more}"
