"""A reader of the arithmetic code written from `docs/format.md` alone: Python's integers, one symbol at a time."""

from collections.abc import Sequence

WORD, STATE, PRECISION = 32, 64, 24


def intervals(counts: Sequence[float]) -> list[int]:
    """Where each symbol begins among 2^24, and the end."""
    free, total, below, found = 2**PRECISION - len(counts), sum(counts), 0.0, []
    for number, count in enumerate(counts):
        found.append(int(below * (free / total)) + number)
        below += count
    return [*found, 2**PRECISION]


class ReferenceDecoder:
    """What `trimtab.store.arithmetic.Decoder` does."""

    def __init__(self, payload: bytes) -> None:
        self.words = [int.from_bytes(payload[i : i + 4], "little") for i in range(0, len(payload), 4)]
        self.lower, self.range, self.point = 0, 2**STATE - 1, 0
        self.point = self._word() << WORD | self._word()

    def _word(self) -> int:
        return self.words.pop(0) if self.words else 0

    def symbol(self, begins: Sequence[int]) -> int:
        scale = self.range >> PRECISION
        place = (self.point - self.lower) % 2**STATE // scale
        found = max(i for i in range(len(begins) - 1) if begins[i] <= place)
        self.lower = (self.lower + scale * begins[found]) % 2**STATE
        self.range = scale * (begins[found + 1] - begins[found])
        if self.range < 2 ** (STATE - WORD):
            self.lower, self.range = (self.lower << WORD) % 2**STATE, self.range << WORD
            self.point = (self.point << WORD) % 2**STATE | self._word()
        return found

    def number(self, bits: int) -> int:
        found = 0
        for shift in range(0, bits, 16):
            size = 1 << min(16, bits - shift)
            found |= self.symbol([i * (2**PRECISION // size) for i in range(size)] + [2**PRECISION]) << shift
        return found
