"""A reader of payloads written from `docs/format.md` alone: Python's integers, one symbol at a time."""

import struct
from collections.abc import Iterator, Sequence

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
        return self.numbers(bits, 1)[0]

    def numbers(self, bits: int, times: int) -> list[int]:
        found = [0] * times
        for shift in range(0, bits, 16):
            size = 1 << min(16, bits - shift)
            begins = [i * (2**PRECISION // size) for i in range(size)] + [2**PRECISION]
            for i in range(times):
                found[i] |= self.symbol(begins) << shift
        return found

    def integers(self, number: int, columns: int) -> list[int]:
        if not number or not (bits := self.number(6)):
            return [0] * number
        if bits > 12:
            signs = self.numbers(1, number)
            return [-size if sign else size for sign, size in zip(signs, self.numbers(bits, number), strict=True)]
        largest, sparse = self.number(bits), self.number(1)
        used = self._flags(number, columns) if sparse else [True] * number
        known = [value for value in range(-largest, largest + 1) if value or not sparse]
        counts, values = [max(1, 64 >> abs(value).bit_length()) for value in known], []
        for begin, end in chunks(sum(used)):
            begins = intervals(counts)
            found = [self.symbol(begins) if len(known) > 1 else 0 for _ in range(begin, end)]
            for symbol in found:
                counts[symbol] += 32
                values.append(known[symbol])
        values.reverse()
        return [values.pop() if flag else 0 for flag in used]

    def _flags(self, number: int, columns: int) -> list[bool]:
        used, seen, counts = [0] * columns, [0] * columns, [[0, 0] for _ in range(6)]
        found: list[bool] = []
        for begin, end in chunks(number):
            classes = [class_of(used[c], seen[c], sum(used), sum(seen)) for c in range(columns)]
            rate = (sum(used) + 1) / (sum(seen) + 2)
            chances = [(ones + 16 * rate) / (zeros + ones + 16) for zeros, ones in counts]
            for place in range(begin, end):
                chance = chances[classes[place % columns]]
                found.append(bool(self.symbol(intervals([1 - chance, chance]))))
            for place in range(begin, end):
                used[place % columns] += found[place]
                seen[place % columns] += 1
                counts[classes[place % columns]][found[place]] += 1
            if max(map(max, counts)) > 2**20:
                counts = [[count // 2 for count in pair] for pair in counts]
        return found

    def floats(self, number: int, columns: int) -> list[float]:
        """Of 32 bits."""
        if not number:
            return []
        if self.number(1) and number > 1:
            return self.floats(1, 1) * number
        length, usual = self.number(6), self.number(8)
        signs = self.integers(number, columns)
        exponents = [usual + each for each in self.integers(number, columns)]
        mantissas = [each << 23 - length for each in self.numbers(length, number)]
        parts = zip(signs, exponents, mantissas, strict=True)
        return [struct.unpack("<f", struct.pack("<I", s << 31 | e << 23 | m))[0] for s, e, m in parts]


def chunks(size: int) -> Iterator[tuple[int, int]]:
    begin = 0
    while begin < size:
        end = min(size, begin + min(2**16, max(16, begin // 4)))
        yield begin, end
        begin = end


def class_of(u: int, s: int, used: int, seen: int) -> int:
    if s == 0:
        return 0
    if u == 0:
        return 0 if used * s < seen else 1
    if u * seen > 2 * used * s:
        return 5
    if 2 * u * seen < used * s:
        return 2
    return 3 if u * seen < used * s else 4
