"""What a Result says, as rows of text and fractions: the same for the terminal and for the page."""

from dataclasses import dataclass
from typing import get_args

from trimtab.plan import Limit, Measurement, Result, Stored, StoredPart
from trimtab.report import numbers

NAMES = {
    "drop": "drop of the metric",
    "size": "file size",
    "stored_size": "entropy-coded file",
    "latency": "latency",
    "macs": "MACs",
    "bops": "BOPs",
    "memory": "peak memory",
}
_FIELDS = {
    "size": "file_bytes",
    "stored_size": "stored_bytes",
    "latency": "latency_ms",
    "macs": "macs",
    "bops": "bops",
    "memory": "peak_bytes",
}


@dataclass(frozen=True, kw_only=True)
class LimitRow:
    """A limit of the budget beside what was measured. `used` is the measured part of the limit, 1 is all of it."""

    quantity: str
    name: str
    limit: str
    measured: str
    used: float | None
    holds: bool | None


@dataclass(frozen=True, kw_only=True)
class QuantityRow:
    """A quantity before and after. `left` is what is left of it, as a fraction of before; None for the metric."""

    quantity: str
    name: str
    before: str
    after: str
    change: str
    left: float | None


def value_of(quantity: str, measurement: Measurement) -> float | None:
    """The measured value that a limit on `quantity` is about; None when it was not measured."""
    value = getattr(measurement, _FIELDS[quantity])
    return None if value is None else float(value)


def text_of(quantity: str, value: float) -> str:
    """A value of a quantity, with its unit."""
    match quantity:
        case "drop":
            return f"{value:.4f}".replace("-", "−")
        case "size" | "stored_size" | "memory":
            return numbers.size(value)
        case "latency":
            return numbers.milliseconds(value)
        case _:
            return numbers.count(value)


def limit_rows(result: Result) -> tuple[LimitRow, ...]:
    """One row a limit, in the budget's order."""
    rows = []
    for limit in result.budget.limits:
        quantity = limit.quantity
        measured, before = result.drop.limited, 0.0
        if quantity != "drop":
            found = value_of(quantity, result.compressed), value_of(quantity, result.baseline)
            if found[0] is None or (limit.relative and found[1] is None):
                rows.append(_unmeasured(limit))
                continue
            measured, before = found[0], found[1] or 0.0
        bound = limit.bound(before)
        relative = f" ({numbers.percent(limit.at_most, 2)})" if limit.relative else ""
        rows.append(
            LimitRow(
                quantity=quantity,
                name=NAMES[quantity],
                limit=text_of(quantity, bound) + relative,
                measured=text_of(quantity, measured),
                used=max(0.0, measured) / bound if bound > 0 else float(measured > 0),
                holds=limit.allows(measured, before),
            )
        )
    return tuple(rows)


def _unmeasured(limit: Limit) -> LimitRow:
    return LimitRow(
        quantity=limit.quantity,
        name=NAMES[limit.quantity],
        limit=str(limit),
        measured="not measured",
        used=None,
        holds=None,
    )


def quantity_rows(result: Result) -> tuple[QuantityRow, ...]:
    """The metric first, then every quantity that was measured on both sides."""
    rows = []
    before, after = result.baseline.metric, result.compressed.metric
    if before is not None and after is not None:
        change = f"drop {text_of('drop', result.drop.value)}"
        rows.append(
            QuantityRow(
                quantity="drop",
                name="metric",
                before=f"{before:.4f}",
                after=f"{after:.4f}",
                change=change,
                left=None,
            )
        )
    for quantity in _FIELDS:
        old, new = value_of(quantity, result.baseline), value_of(quantity, result.compressed)
        if old is not None and new is not None:
            rows.append(
                QuantityRow(
                    quantity=quantity,
                    name=NAMES[quantity],
                    before=text_of(quantity, old),
                    after=text_of(quantity, new),
                    change=factor(old, new),
                    left=new / old if old > 0 else None,
                )
            )
    if result.compressed.zeros:
        rows.append(_zeros_row(result.baseline.zeros or 0.0, result.compressed.zeros))
    return tuple(rows)


def _zeros_row(before: float, after: float) -> QuantityRow:
    return QuantityRow(
        quantity="zeros",
        name="zero weights",
        before=numbers.percent(before),
        after=numbers.percent(after),
        change="–",
        left=None,
    )


@dataclass(frozen=True, kw_only=True)
class StoredRow:
    """A layer of the entropy-coded file: its bytes by kind, in the order of `STORED_KINDS`."""

    layer: str
    kinds: tuple[float, ...]

    @property
    def bytes(self) -> float:
        """In all."""
        return sum(self.kinds)


STORED_KINDS = get_args(StoredPart.model_fields["kind"].annotation)


def stored_rows(stored: Stored) -> tuple[StoredRow, ...]:
    """One row a layer; what belongs to none comes last."""
    found: dict[str, dict[str, float]] = {}
    for part in stored.parts:
        of = found.setdefault(part.layer, {})
        of[part.kind] = of.get(part.kind, 0.0) + part.bytes
    rows = [
        StoredRow(layer=layer, kinds=tuple(of.get(kind, 0.0) for kind in STORED_KINDS)) for layer, of in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: not row.layer))


def factor(before: float, after: float) -> str:
    """`12.4× less`, `1.3× more`, `the same`."""
    if before <= 0 or after <= 0:
        return "–"
    ratio = before / after
    if 0.995 < ratio < 1.005:
        return "the same"
    return f"{numbers.three(ratio)}× less" if ratio > 1 else f"{numbers.three(1 / ratio)}× more"


def interval(result: Result) -> str:
    """How sure the drop is."""
    low, high = result.drop.ci95
    return f"95 % interval of the drop: {numbers.signed(low)} … {numbers.signed(high)}"


def conditions(measurement: Measurement) -> str:
    """How the latency was measured."""
    text = f"{measurement.device}, batch {measurement.batch}, {measurement.threads} "
    text += "thread" if measurement.threads == 1 else "threads"
    if measurement.spread is not None:
        quartiles = (
            f"{numbers.milliseconds(measurement.spread.q25_ms)} … {numbers.milliseconds(measurement.spread.q75_ms)}"
        )
        text += f", quartiles {quartiles} over {measurement.spread.runs} runs"
    return text
