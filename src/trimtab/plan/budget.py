"""The user's limits. `Budget(drop=0.01, size="10%", latency="2ms")` becomes a tuple of `Limit`s.

Beside them, checks of the network's behaviour that must hold: `Budget(drop=0.01, require=["calibration=0.02"])`.
"""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trimtab.errors import ConfigError
from trimtab.plan.behaviour import Requirement, requirement
from trimtab.plan.record import Record

Quantity = Literal["drop", "size", "stored_size", "latency", "macs", "bops", "memory"]

_UNITS: dict[Quantity, dict[str, float]] = {
    "drop": {"": 1.0},
    "size": {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "latency": {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3},
    "macs": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
    "bops": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
}
_UNITS["memory"] = _UNITS["stored_size"] = _UNITS["size"]

_EXAMPLES = {
    "drop": "0.01",
    "size": "10% or 64kB",
    "stored_size": "5% or 40kB",
    "latency": "0.5x or 2ms",
    "macs": "0.4x or 50M",
    "bops": "1% or 2G",
    "memory": "50% or 64MB",
}


_ROUNDING = 1e-9


class Limit(Record):
    """`quantity` is at most `at_most`: a fraction of the original when `relative`, else in its own unit.

    Units: bytes, milliseconds, MACs and BOPs a sample; a drop is in units of the metric. `size` is of the file that the
    runtime loads, `stored_size` of the entropy-coded one of `pack`.
    """

    quantity: Quantity
    at_most: Annotated[float, Field(ge=0)]
    relative: bool = False

    @model_validator(mode="after")
    def _can_be_kept(self) -> "Limit":
        if self.quantity == "drop" and self.relative:
            raise ValueError("drop is in the metric's own unit; it cannot be relative")
        if self.quantity != "drop" and self.at_most == 0:
            raise ValueError(f"{self.quantity} 0 leaves nothing; give more, such as {_EXAMPLES[self.quantity]}")
        return self

    def bound(self, baseline: float) -> float:
        """The limit in absolute units, given the original network's value."""
        return self.at_most * baseline if self.relative else self.at_most

    def allows(self, value: float, baseline: float = 0.0) -> bool:
        """Whether a value keeps it, given the original network's; what rounding adds to a difference is let go."""
        bound = self.bound(baseline)
        return value <= bound + _ROUNDING * max(1.0, bound)

    def __str__(self) -> str:
        return f"{self.quantity} ≤ {self.at_most:.4g}{'x' if self.relative else ''}"


class Budget(Record):
    """At most one limit a quantity, and one requirement a check.

    Raises: ConfigError for a value that cannot be read, or limits that contradict.
    """

    limits: tuple[Limit, ...]
    require: tuple[Requirement, ...] = ()

    def __init__(
        self,
        *,
        drop: float | str | None = None,
        size: str | None = None,
        stored_size: str | None = None,
        latency: str | None = None,
        macs: float | str | None = None,
        bops: float | str | None = None,
        memory: str | None = None,
        limits: tuple[Limit, ...] = (),
        require: Sequence[str | Requirement] = (),
    ) -> None:
        given: dict[Quantity, float | str | None] = {
            "drop": drop,
            "size": size,
            "stored_size": stored_size,
            "latency": latency,
            "macs": macs,
            "bops": bops,
            "memory": memory,
        }
        parsed = tuple(parse_limit(quantity, value) for quantity, value in given.items() if value is not None)
        required = tuple(requirement(text) if isinstance(text, str) else text for text in require)
        super().__init__(limits=limits + parsed, require=required)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _one_limit_a_quantity(self) -> "Budget":
        if not self.limits:
            raise ValueError(f"nothing is limited; give at least one of {', '.join(_UNITS)}")
        quantities: list[str] = [limit.quantity for limit in self.limits]
        checks: list[str] = [required.check for required in self.require]
        for what, names in {"limited": quantities, "required": checks}.items():
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{twice[0]} is {what} twice; keep one of the two")
        return self

    def limit(self, quantity: Quantity) -> Limit | None:
        """The limit on `quantity`, or None."""
        return next((limit for limit in self.limits if limit.quantity == quantity), None)

    def __str__(self) -> str:
        return ", ".join([*map(str, self.limits), *(f"require {required}" for required in self.require)])


def parse_limit(quantity: Quantity, value: float | str) -> Limit:
    """Read `10%`, `0.5x`, `64kB`, `2ms`, `0.01`. Raises: ConfigError that shows what would be right."""
    if quantity not in _UNITS:
        raise ConfigError(f"budget: unknown quantity {quantity!r}; known: {', '.join(_UNITS)}")
    if re.match(r"\s*-", str(value)):
        raise ConfigError(
            f"budget: {quantity} {value!r} is below 0 and asks for what compression cannot give; "
            f"write it like {_EXAMPLES[quantity]}"
        )
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([%A-Za-zµ]*)\s*", str(value))
    if match is None:
        raise _unreadable(quantity, value)
    number, unit = float(match[1]), match[2]
    if not math.isfinite(number):
        raise _unreadable(quantity, value)
    if unit in {"%", "x"} and quantity != "drop":
        return _limit(quantity, value, number / 100 if unit == "%" else number, relative=True)
    if unit == "%":
        return Limit(quantity="drop", at_most=number / 100)
    if unit not in _UNITS[quantity]:
        raise _unreadable(quantity, value)
    return _limit(quantity, value, number * _UNITS[quantity][unit], relative=False)


def _limit(quantity: Quantity, value: float | str, at_most: float, *, relative: bool) -> Limit:
    if at_most <= 0 and quantity != "drop":
        raise ConfigError(f"budget: {quantity} {value!r} leaves nothing; give more, such as {_EXAMPLES[quantity]}")
    return Limit(quantity=quantity, at_most=at_most, relative=relative)


def _unreadable(quantity: str, value: float | str) -> ConfigError:
    return ConfigError(f"budget: cannot read {quantity} {value!r}; write it like {_EXAMPLES[quantity]}")
