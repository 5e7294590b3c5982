"""Numbers as people read them."""

_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def three(value: float) -> str:
    """Three significant digits, without an exponent for the sizes that occur: 0.0123, 4.56, 78.9, 1234."""
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e" in text else text


def count(value: float, unit: str = "") -> str:
    """`40.6 M`, with the unit behind it."""
    for factor, letter in _SI:
        if abs(value) >= factor:
            return f"{three(value / factor)} {letter}{unit}"
    return f"{three(value)} {unit}".strip()


def size(value: float) -> str:
    """Bytes, in powers of 1000."""
    return count(value, "B")


def milliseconds(value: float) -> str:
    """`12.3 ms`, or microseconds when below a tenth of one."""
    return f"{three(value)} ms" if value >= 0.1 else f"{three(value * 1000)} µs"


def seconds(value: float) -> str:
    """`42 s`, `3 min 05 s`."""
    if value < 10:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def percent(fraction: float, digits: int = 1) -> str:
    """0..1 as `99.5 %`; rounds towards what is not perfect, so that only 1 is shown as 100 %."""
    text = f"{100 * fraction:.{digits}f}"
    if fraction < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text.removesuffix('.' + '0' * digits)} %"


def signed(value: float) -> str:
    """`+0.0020`, `−0.0010`, with a true minus sign."""
    return f"{value:+.4f}".replace("-", "−")
