"""How a compressed network behaves beside the original: what its metric alone does not tell."""

import re
from typing import Literal, get_args

from trimtab.errors import ConfigError
from trimtab.plan.record import Record

CheckName = Literal["classes", "calibration", "agreement", "robustness", "overfitting", "explanation"]

THRESHOLDS: dict[CheckName, float] = {
    "classes": 0.02,
    "calibration": 0.03,
    "agreement": 0.1,
    "robustness": 0.1,
    "overfitting": 0.05,
    "explanation": 0.5,
}
"""The most that each check's number may be; docs/behaviour.md says what each number is."""

_ROUNDING = 1e-9


class Aspect(Record):
    """One row of a check: before and after, and the interval in which the difference lies, where there is one."""

    label: str
    before: float | None
    after: float
    interval: tuple[float, float] | None = None


class Check(Record):
    """One question about the compressed network: its number may be `at_most` so much. `verdict` says it in words."""

    name: CheckName
    measured: float
    at_most: float
    verdict: str
    aspects: tuple[Aspect, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the number is small enough."""
        return self.measured <= self.at_most + _ROUNDING


class Behaviour(Record):
    """All checks, and for each that was left out the reason."""

    checks: tuple[Check, ...]
    left_out: dict[CheckName, str]

    def check(self, name: CheckName) -> Check | None:
        """A check by its name; None where it was left out."""
        return next((check for check in self.checks if check.name == name), None)


class Requirement(Record):
    """A check that has to hold, with another threshold than its own where one is given."""

    check: CheckName
    at_most: float | None = None

    def __str__(self) -> str:
        return self.check if self.at_most is None else f"{self.check}={self.at_most!r}"


def requirement(text: str) -> Requirement:
    """Read `calibration` or `calibration=0.02`. Raises: ConfigError that shows what would be right."""
    found = re.fullmatch(r"\s*([a-z]+)\s*(?:=\s*([0-9]*\.?[0-9]+)(%?)\s*)?", text)
    if found is None or found[1] not in get_args(CheckName):
        raise ConfigError(
            f"require: cannot read {text!r}; write it like calibration or calibration=0.02; "
            f"known: {', '.join(get_args(CheckName))}"
        )
    at_most = None if found[2] is None else float(found[2]) / (100 if found[3] else 1)
    return Requirement(check=found[1], at_most=at_most)  # type: ignore[arg-type]
