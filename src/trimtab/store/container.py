"""The bytes of a `.trim` file: magic, version, checksum, length of the header, header, payload."""

import zlib
from typing import NamedTuple

from trimtab.errors import ConfigError

MAGIC, VERSION = b"trim", 1
_CHECKED_FROM = len(MAGIC) + 1 + 4


class Parts(NamedTuple):
    """The two parts, each already in few bytes."""

    header: bytes
    payload: bytes


def join(parts: Parts) -> bytes:
    """One file."""
    rest = _number(len(parts.header)) + parts.header + parts.payload
    return MAGIC + bytes([VERSION]) + zlib.crc32(rest).to_bytes(4, "little") + rest


def split(content: bytes) -> Parts:
    """The parts of a file. Raises: ConfigError for another file, a newer version, and any byte that was changed."""
    if not content.startswith(MAGIC):
        raise ConfigError(f"no .trim file: it begins with {content[:4]!r}; give a file of `trimtab pack`")
    if len(content) < _CHECKED_FROM:
        raise ConfigError(f"cut short: {len(content)} bytes; pack the network again")
    version = content[len(MAGIC)]
    if version != VERSION:
        raise ConfigError(
            f"the file has version {version} of the format, this trimtab reads {VERSION}; install a newer trimtab"
        )
    said, rest = content[len(MAGIC) + 1 : _CHECKED_FROM], content[_CHECKED_FROM:]
    if zlib.crc32(rest) != int.from_bytes(said, "little"):
        raise ConfigError("damaged or cut short: its checksum is another; copy or pack it again")
    length, begin = _read_number(rest)
    if begin + length > len(rest):
        raise ConfigError(f"its header has {length} bytes, {len(rest) - begin} are there; pack the network again")
    return Parts(rest[begin : begin + length], rest[begin + length :])


def _number(value: int) -> bytes:
    """Seven bits a byte, the least first; all but the last have the eighth."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _read_number(content: bytes) -> tuple[int, int]:
    """The number at the beginning, and where it ends."""
    value = 0
    for at, byte in enumerate(content[:5]):
        value |= (byte & 127) << (7 * at)
        if byte < 128:
            return value, at + 1
    raise ConfigError("its header has no length; pack the network again")
