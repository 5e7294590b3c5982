"""The profile as a table: what each choice alone costs each unit."""

from trimtab.report.details import Sensitivity
from trimtab.search import Profile
from trimtab.search.space import Option, Unit

SHARES = {"¾ width": 0.75, "½ width": 0.5, "¼ width": 0.25}
BITS = (8, 4, 3, 2)
REMOVED = "removed"
CHOICES = (*SHARES, *(f"{bits} bits" for bits in BITS), REMOVED)
_NEAR = 0.13


def sensitivity_of(profile: Profile) -> tuple[Sensitivity, ...]:
    """A row for each unit that has any of the choices: its widths at the finest storage, its storages at full width."""
    found = [Sensitivity(unit=unit.name, losses=_losses(unit)) for unit in profile.units]
    return tuple(row for row in found if row.losses)


def _losses(unit: Unit) -> dict[str, float]:
    if unit.branch is not None:
        return {REMOVED: min(option.loss for option in unit.options if option.kept == 0)}
    losses = {}
    finest = max(option.fineness for option in unit.options)
    widths = [option for option in unit.options if option.fineness == finest and option.kept < unit.width]
    for name, share in SHARES.items():
        near = [option for option in widths if abs(option.kept / unit.width - share) < _NEAR]
        if near:
            losses[name] = min(near, key=lambda option: abs(option.kept / unit.width - share)).loss
    for bits in BITS:
        stored = [option for option in unit.options if _is(option, unit.width, bits)]
        if stored:
            losses[f"{bits} bits"] = min(option.loss for option in stored)
    return losses


def _is(option: Option, width: int, bits: int) -> bool:
    return option.kept == width and option.weight is not None and option.weight.bits == bits
