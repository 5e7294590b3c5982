"""The numbers of a network in one arithmetic code, one tensor after the other."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.graph.storage.save import EXAMPLE
from trimtab.graph.storage.stored import Stored, StoredExample, StoredTensor, torch_constant
from trimtab.store.arithmetic import Decoder, Encoder
from trimtab.store.floats import DTYPES, code_floats
from trimtab.store.integers import code_integers

_MARK_BITS = 16
_FREE, _A_BYTE = 2**20, 2**12
"""A file may hold so many numbers, and so many more for each byte of its payload: nobody waits for a lie."""


class Taken(NamedTuple):
    """Bytes of a payload, to about 4: of `values`, and of flags that say where they are not zero."""

    values: float
    positions: float


def write(header: Stored, numbers: Mapping[str, Tensor], mark: int) -> tuple[bytes, dict[str, Taken]]:
    """The payload, and what each tensor takes of it. `mark`, below 2^16, is asked for when it is read.

    Raises: ConfigError.
    """
    encoder, sizes = Encoder(), {}
    encoder.numbers(np.array([mark]), _MARK_BITS, 1)
    for name, entry in _entries(header):
        bits, flag_bits = encoder.bits, encoder.flag_bits
        _code(encoder, numbers[name].detach().cpu(), entry, name)
        positions = encoder.flag_bits - flag_bits
        sizes[name] = Taken((encoder.bits - bits - positions) / 8, positions / 8)
    payload = encoder.finish()
    _check_amount(header, payload)
    return payload, sizes


def read(header: Stored, payload: bytes, mark: int) -> dict[str, Tensor]:
    """The numbers that `write` wrote. Raises: ConfigError for a payload that is not of this header."""
    _check_amount(header, payload)
    decoder, found = Decoder(payload), {}
    if int(decoder.numbers(None, _MARK_BITS, 1)[0]) != mark:
        raise ConfigError("its payload is of another architecture than its header; pack the network again")
    for name, entry in _entries(header):
        dtype = torch_constant("dtype", entry.dtype, name)
        found[name] = _code(decoder, torch.zeros(entry.shape, dtype=dtype), entry, name)
    decoder.finish()
    return found


def _entries(header: Stored) -> list[tuple[str, StoredTensor | StoredExample]]:
    """What has numbers in the payload, by name, in its order."""
    tensors: list[tuple[str, StoredTensor | StoredExample]] = [
        (tensor.name, tensor) for tensor in header.tensors if tensor.same_as is None
    ]
    return tensors + [(f"{EXAMPLE}{i}", example) for i, example in enumerate(header.example) if example.stored]


def _check_amount(header: Stored, payload: bytes) -> None:
    amount = sum(math.prod(entry.shape) for _, entry in _entries(header))
    most = _FREE + _A_BYTE * len(payload)
    if amount > most:
        raise ConfigError(f"a payload of {len(payload)} bytes holds at most {most} numbers, got {amount}")


def _code(coder: Any, tensor: Tensor, entry: StoredTensor | StoredExample, name: str) -> Tensor:
    """One tensor, written or read."""
    columns = max(1, math.prod(entry.shape[1:]))
    flat = tensor.flatten()
    if tensor.dtype in DTYPES:
        return code_floats(coder, flat, columns).reshape(tensor.shape)
    if tensor.is_complex() or tensor.is_quantized:
        raise ConfigError(f"{name}: {entry.dtype} cannot be packed; cast it")
    array = flat.numpy()
    values = code_integers(coder, array.view(np.uint8) if array.dtype == np.bool_ else array, columns)
    if array.dtype == np.bool_ and values.size and int(values.max()) > 1:
        raise ConfigError(f"{name}: its payload gives numbers outside of {entry.dtype}")
    return torch.from_numpy(values.view(array.dtype)).reshape(tensor.shape)
