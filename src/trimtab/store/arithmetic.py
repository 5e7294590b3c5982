"""Arithmetic coding of arrays: flags with a probability each, symbols by their counts, numbers of so many bits.

A range coder with words of 32 bits, a state of 64, and probabilities of 24 (Martin 1979, "Range encoding: an algorithm
for removing redundancy from a digitized message"). `docs/format.md` says how counts become intervals.
"""

from collections.abc import Iterator
from typing import Any

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from trimtab.errors import ConfigError

Integers = NDArray[np.integer[Any]]
_MODELS, _CODERS = constriction.stream.model, constriction.stream.queue
_FLAGS = _MODELS.Bernoulli(perfect=False)
_MOST_BITS, _AT_ONCE = 16, 2**16


class Encoder:
    """Writes; whatever it is told, a `Decoder` that is asked the same in the same order gives back.

    `bits` were written so far, `flag_bits` of them for flags.
    """

    def __init__(self) -> None:
        self._coder = _CODERS.RangeEncoder()
        self.flag_bits = 0

    def flags(self, values: NDArray[np.bool_], chances: NDArray[np.float64]) -> NDArray[np.bool_]:
        """True where the chance of it is `chances`, strictly between 0 and 1."""
        before = self.bits
        self._coder.encode(values.astype(np.int32), _FLAGS, np.ascontiguousarray(chances))
        self.flag_bits += self.bits - before
        return values

    def symbols(self, values: Integers, counts: Integers, number: int) -> Integers:
        """Symbols 0 … len(counts) − 1, each as likely as its count (>= 1) says."""
        if len(counts) > 1:
            self._coder.encode(values.astype(np.int32), _model(counts))
        return values

    def numbers(self, values: Integers, bits: int, number: int) -> Integers:
        """Numbers below 2^bits, all as likely."""
        for shift, width in _digits(bits):
            for part in _parts(number):
                digits = (values[part] >> shift) & ((1 << width) - 1)
                self._coder.encode(digits.astype(np.int32), _MODELS.Uniform(1 << width))
        return values

    @property
    def bits(self) -> int:
        """How many were written so far."""
        return int(self._coder.num_bits())

    def finish(self) -> bytes:
        """What was written."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class Decoder:
    """Reads what an `Encoder` wrote. The first argument of each question is not looked at: it is what comes back."""

    def __init__(self, payload: bytes) -> None:
        if len(payload) % 4:
            raise ConfigError(f"its payload is of words of 4 bytes, got {len(payload)} bytes")
        self._coder = _CODERS.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))

    def flags(self, values: object, chances: NDArray[np.float64]) -> NDArray[np.bool_]:
        """As `Encoder.flags`."""
        return np.asarray(self._coder.decode(_FLAGS, np.ascontiguousarray(chances)), np.bool_)

    def symbols(self, values: object, counts: Integers, number: int) -> Integers:
        """As `Encoder.symbols`."""
        if len(counts) == 1:
            return np.zeros(number, np.int64)
        return np.asarray(self._coder.decode(_model(counts), number), np.int64)

    def numbers(self, values: object, bits: int, number: int) -> Integers:
        """As `Encoder.numbers`."""
        found: Integers = np.zeros(number, np.int32 if bits < 32 else np.int64)
        for shift, width in _digits(bits):
            for part in _parts(number):
                digits = self._coder.decode(_MODELS.Uniform(1 << width), part.stop - part.start)
                found[part] += np.asarray(digits, found.dtype) << shift
        return found

    def finish(self) -> None:
        """Raises: ConfigError where something is left that nobody asked for."""
        if not self._coder.maybe_exhausted():
            raise ConfigError("its payload is longer than its header says")


def _model(counts: Integers) -> Any:
    return _MODELS.Categorical(counts.astype(np.float64), perfect=False)


def _parts(number: int) -> Iterator[slice]:
    """Pieces of so many numbers that take little memory."""
    yield from (slice(begin, min(number, begin + _AT_ONCE)) for begin in range(0, number, _AT_ONCE))


def _digits(bits: int) -> list[tuple[int, int]]:
    """(position, width) of the pieces that a number of so many bits is coded in."""
    return [(shift, min(_MOST_BITS, bits - shift)) for shift in range(0, bits, _MOST_BITS)]
