"""Which options are measured, and what the others are taken to lose: one decision more is an independent error more."""

import statistics
from collections.abc import Iterable, Mapping

from trimtab.search.space import Option, Storage, Unit


def to_measure(unit: Unit, number: int) -> list[Option]:
    """Every width in float and as the kernels want it, every storage of all channels, and one pair of less of both.

    `number` counts the units, so that every storage gets its turn. The widest come first, integers before float.
    """
    whole = [option for option in unit.options if option.weight is None or option.storage == _kernels(unit)]
    narrow = [option for option in unit.options if option not in whole]
    full = [option for option in narrow if option.kept == unit.width]
    pairs = [option for option in narrow if option not in full]
    check = [pairs[(len(pairs) // 2 + number) % len(pairs)]] if pairs else []
    return sorted([*whole, *full, *check], key=lambda o: (-o.kept, o.weight is None, *(-part for part in o.fineness)))


def filled(unit: Unit, losses: Mapping[Option, float]) -> Unit:
    """The unit with these losses, and with what they say about pairs of fewer channels and fewer bits.

    Errors of channels that are gone and of codes that are coarse are taken as independent: squares add. `filling` is
    the measured loss of the pair that was measured over what would have been filled in for it.
    """
    by = {(option.kept, option.storage): loss for option, loss in losses.items()}
    kernels = _kernels(unit)
    options, filling = [], []
    for option in unit.options:
        known = by.get((option.kept, option.storage))
        if kernels is None:
            parts: list[float | None] = [None]
        else:
            pairs = (option.kept, kernels), (unit.width, option.storage), (unit.width, kernels)
            parts = [by.get(pair) for pair in pairs]
        if option.kept < unit.width and option.storage != kernels and option.weight is not None and None not in parts:
            guess = max(parts[0] + parts[1] - parts[2], 0.0)  # type: ignore[operator]
            if known is not None and guess:
                filling.append(known / guess)
            known = guess if known is None else known
        if known is not None:
            options.append(option.model_copy(update={"loss": known}))
    return unit.model_copy(update={"options": tuple(options), "filling": tuple(filling)})


def filling_error(units: Iterable[Unit]) -> float | None:
    """Median over the pairs that were measured of |filled in − measured| / measured; None without any."""
    errors = [abs(1 / ratio - 1) for unit in units for ratio in unit.filling if ratio]
    return statistics.median(errors) if errors else None


def _kernels(unit: Unit) -> Storage | None:
    """The finest storage on offer below float: that of the target's kernels."""
    offered = [option for option in unit.options if option.weight is not None]
    return max(offered, key=lambda option: option.fineness).storage if offered else None
