"""Tensors as small PNG pictures inside a page."""

import base64
import struct
import zlib

import torch
from torch import Tensor

_LARGEST = 96


def picture(x: Tensor) -> str:
    """A `data:` address of an image [channels, height, width] or [height, width]; empty for anything else.

    Values are stretched to black … white; larger images are thinned out to at most 96 pixels a side.
    """
    if x.dim() == 2:
        x = x[None]
    if x.dim() != 3 or x.shape[0] not in (1, 3) or not x.is_floating_point() or min(x.shape[1:]) < 2:
        return ""
    step = max(1, -(-max(x.shape[1:]) // _LARGEST))
    x = x[:, ::step, ::step].double()
    low, high = float(x.min()), float(x.max())
    pixels = ((x - low) / max(high - low, 1e-12) * 255).round().to(torch.uint8)
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def png(pixels: Tensor) -> bytes:
    """A PNG file of uint8 [1 or 3, height, width]. Source: W3C, "Portable Network Graphics", chapters 5 and 11."""
    channels, height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    rows = pixels.permute(1, 2, 0).reshape(height, -1).numpy()
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 9)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
