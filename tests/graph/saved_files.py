"""Saved networks taken apart and put together again, with whatever a test wants to say in them."""

import json
import struct
from typing import Any


def opened(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """(safetensors header, the network's JSON, the numbers)."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["trimtab.network"]), content[8 + length :]


def closed(header: dict[str, Any], network: Any, numbers: bytes) -> bytes:
    """The file of a network's JSON, or of a text in its place."""
    text = network if isinstance(network, str) else json.dumps(network)
    header["__metadata__"]["trimtab.network"] = text
    whole = json.dumps(header).encode()
    whole += b" " * (-len(whole) % 8)
    return struct.pack("<Q", len(whole)) + whole + numbers
