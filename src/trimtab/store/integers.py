"""Tensors of integers, as adaptive contexts describe them; the same code writes and reads.

A tensor is a matrix: a row for each output channel. Where many entries are zero, flags say first which are not, with a
chance that follows from how often the column was used so far (an input that nothing needs stays cheap). Then come the
others, with the counts of those before them. Statistics are brought up to date after every chunk, and chunks grow with
what is known, so that a large tensor is coded in few calls; up to a length, so that it is coded in little memory.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ConfigError

Integers = NDArray[np.integer[Any]]

_FIRST_CHUNK, _GROWTH, _LAST_CHUNK = 16, 4, 2**16
"""Entries of the first chunk; a later one has a quarter of what came before it, but not more than the third."""
_SPARSE = 4
"""Flags say where zeros are when at least one of so many entries is zero."""
_LENGTH_BITS, _COUNTED_BITS = 6, 12
"""Of the length, in bits, of the largest magnitude. Integers of more bits than these are written, not counted."""
_PRIOR, _SEEN = 64, 32
"""What is believed before anything is seen, at zero; it halves with each doubling. And what one that is seen counts."""
_CLASSES, _BELIEVED = 6, 16
"""Of columns; and so many entries of each are as if they had been seen, used as often as those of all."""


class Coder(Protocol):
    """An `Encoder` or a `Decoder`: the decoder returns what was written and does not look at the first argument."""

    def flags(self, values: NDArray[np.bool_], chances: NDArray[np.float64]) -> NDArray[np.bool_]: ...
    def symbols(self, values: Integers, counts: Integers, number: int) -> Integers: ...
    def numbers(self, values: Integers, bits: int, number: int) -> Integers: ...


def code_integers(coder: Coder, values: Integers, columns: int) -> Integers:
    """Write `values` [n], rows of `columns` one after the other, or read as many of their type. Returns: them.

    Raises: ConfigError when what is read is none, or does not fit into the type.
    """
    size = len(values)
    if not size:
        return values
    largest = max(int(values.max()), -int(values.min()))
    if largest.bit_length() >= 2**_LENGTH_BITS:
        raise ConfigError(f"integers of at most {2**_LENGTH_BITS - 1} bits can be packed, got {largest}")
    bits = code_one(coder, largest.bit_length(), _LENGTH_BITS)
    if not bits:
        return np.zeros_like(values)
    if bits > _COUNTED_BITS:
        return _written(coder, values, bits)
    largest = code_one(coder, largest, bits)
    if not largest:
        raise ConfigError(f"its payload gives 0 as the largest of integers of {bits} bits")
    if not code_one(coder, int(_SPARSE * (size - np.count_nonzero(values)) >= size), 1):
        return _symbols(coder, values, largest, zero=True)
    used = _flags(coder, values, columns)
    found = np.zeros_like(values)
    found[used] = _symbols(coder, values[used], largest, zero=False)
    return found


def chunks(size: int) -> Iterator[slice]:
    """Parts of `size` entries, as long as what came before them allows."""
    begin = 0
    while begin < size:
        end = min(size, begin + min(_LAST_CHUNK, max(_FIRST_CHUNK, begin // _GROWTH)))
        yield slice(begin, end)
        begin = end


def code_one(coder: Coder, value: int, bits: int) -> int:
    """Write one number of so many bits, or read it. Returns: it."""
    return int(coder.numbers(np.array([value]), bits, 1)[0])


def _written(coder: Coder, values: Integers, bits: int) -> Integers:
    """Integers that are too large for a table: a sign and all their bits."""
    signs = coder.numbers((values < 0).view(np.int8), 1, len(values))
    sizes = coder.numbers(np.abs(values.astype(np.int64)), bits, len(values))
    return _as(values.dtype, np.where(signs == 1, -sizes, sizes))


def _as(dtype: np.dtype[Any], values: Integers) -> Integers:
    """The same numbers in another type. Raises: ConfigError where they do not fit."""
    limits = np.iinfo(dtype)
    if not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise ConfigError(f"its payload gives numbers outside of {dtype}")
    return values.astype(dtype)


def _flags(coder: Coder, values: Integers, columns: int) -> NDArray[np.bool_]:
    """Which entries are not zero. A class of which little is known is believed to be as the rest is."""
    found = np.zeros(len(values), np.bool_)
    column_used, column_seen = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
    counts = np.zeros((_CLASSES, 2), np.int64)
    for part in chunks(len(values)):
        column = np.arange(part.start, part.stop) % columns
        of = _classes(column_used, column_seen)[column]
        rate = (column_used.sum() + 1) / (column_seen.sum() + 2)
        chance = (counts[:, 1] + _BELIEVED * rate) / (counts.sum(1) + _BELIEVED)
        found[part] = coder.flags(values[part] != 0, chance[of])
        column_used += np.bincount(column, found[part], columns).astype(np.int64)
        column_seen += np.bincount(column, minlength=columns)
        counts[:, 1] += np.bincount(of, found[part], _CLASSES).astype(np.int64)
        counts[:, 0] += np.bincount(of, ~found[part], _CLASSES).astype(np.int64)
        if counts.max() > 2**20:
            counts //= 2
    return found


def _classes(used: Integers, seen: Integers) -> Integers:
    """Columns by how often they were used, against the average: not seen; never; under a half; less; more; over twice.

    `never` only where it says something: at the average rate, one use would have been expected.
    """
    total_used, total_seen = int(used.sum()), int(seen.sum())
    rate, average = used * total_seen, total_used * seen
    found = np.where(rate < average, 3, 4)
    found[2 * rate < average] = 2
    found[rate > 2 * average] = 5
    found[(used == 0) & (average >= total_seen)] = 1
    found[(seen == 0) | ((used == 0) & (average < total_seen))] = 0
    return found


def _symbols(coder: Coder, values: Integers, largest: int, *, zero: bool) -> Integers:
    """Integers of at most `largest` in magnitude, each with the counts of those before it."""
    known = np.array([number for number in range(-largest, largest + 1) if zero or number])
    counts = np.array([max(1, _PRIOR >> abs(int(number)).bit_length()) for number in known])
    found = np.zeros_like(values)
    for part in chunks(len(values)):
        numbers = values[part].astype(np.int64)
        index = numbers + largest - (0 if zero else (numbers > 0))
        symbols = coder.symbols(index, counts, part.stop - part.start)
        counts = counts + _SEEN * np.bincount(symbols, minlength=len(counts))
        found[part] = _as(values.dtype, known[symbols])
    return found
