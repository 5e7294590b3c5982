"""Arithmetic coding: what is written is read, also by a reader that was written from the specification."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_decoder import ReferenceDecoder, intervals

from trimtab.errors import ConfigError
from trimtab.store.arithmetic import Decoder, Encoder
from trimtab.store.floats import DTYPES, code_floats, rounded
from trimtab.store.integers import code_integers


def coded(values: np.ndarray, columns: int) -> bytes:
    encoder = Encoder()
    code_integers(encoder, values, columns)
    return encoder.finish()


def entropy_bytes(values: np.ndarray) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum() * len(values) / 8)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(-3, 3), st.integers(-127, 127), st.integers(-(2**60), 2**60)), min_size=0, max_size=300
    ),
    st.integers(1, 40),
)
def test_integers_come_back(values, columns):
    written = np.array(values, np.int64)
    found = code_integers(Decoder(coded(written, columns)), np.zeros_like(written), columns)
    np.testing.assert_array_equal(found, written)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_integers_of_every_type_come_back(data):
    dtype = data.draw(st.sampled_from([np.int8, np.uint8, np.int16, np.int32]))
    limits = np.iinfo(dtype)
    numbers = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), max_size=100))
    written = np.array(numbers, dtype)
    found = code_integers(Decoder(coded(written, 7)), np.zeros_like(written), 7)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, written)


def test_integers_that_do_not_fit_into_their_type_are_refused():
    for value, dtype in ((-1, np.uint8), (128, np.int8), (100_000, np.int16)):
        content = coded(np.array([value, 1, 0]), 3)
        with pytest.raises(ConfigError, match="outside of"):
            code_integers(Decoder(content), np.zeros(3, dtype), 3)
    with pytest.raises(ConfigError, match="at most 63 bits"):
        coded(np.array([np.iinfo(np.int64).min]), 1)


@pytest.mark.parametrize("zeros", [0.1, 0.9])
def test_a_reader_of_the_specification_reads_more_than_the_longest_chunk(zeros):
    generator = np.random.default_rng(1)
    values = np.where(generator.random(340_000) < zeros, 0, generator.choice([-1, 1], 340_000)).astype(np.int8)
    reader = ReferenceDecoder(coded(values, 5))
    assert reader.integers(len(values), 5) == values.tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_floats_come_back_bit_for_bit(data):
    dtype = data.draw(st.sampled_from(sorted(DTYPES, key=str)))
    numbers = data.draw(st.lists(st.floats(allow_nan=False, width=16), max_size=50))
    precision = data.draw(st.integers(1, 60))
    values = rounded(torch.tensor(numbers, dtype=torch.float64).to(dtype), precision)
    encoder = Encoder()
    code_floats(encoder, values, 1)
    found = code_floats(Decoder(encoder.finish()), torch.zeros_like(values), 1)
    assert found.dtype == dtype
    assert torch.equal(found, values)
    assert torch.equal(found.signbit(), values.signbit())


@pytest.mark.parametrize("bits", [1, 4, 8, 22])
def test_rounding_moves_a_float_by_half_a_step_of_its_mantissa_at_most(bits):
    values = torch.randn(10_000) * torch.logspace(-30, 30, 10_000)
    moved = (rounded(values, bits) - values).abs() / values.abs()
    assert 2.0 ** -(bits + 2) < float(moved.max()) <= 2.0 ** -(bits + 1)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 20.0])
def test_independent_integers_take_about_their_entropy(deviation):
    values = np.random.default_rng(0).normal(0, deviation, 100_000).round().astype(np.int64)
    assert len(coded(values, 100)) < 1.005 * entropy_bytes(values) + 200


@pytest.mark.parametrize(("rows", "columns", "share"), [(290, 784, 0.016), (92, 290, 0.05), (20, 500, 0.1)])
def test_few_entries_anywhere_take_about_their_entropy(rows, columns, share):
    drawn = np.random.default_rng(0)
    values = ((drawn.random(rows * columns) < share) * drawn.choice([-1, 1], rows * columns)).astype(np.int8)
    assert len(coded(values, columns)) < 1.01 * entropy_bytes(values) + 20


def test_zeros_in_columns_take_less_than_their_entropy():
    generator = np.random.default_rng(0)
    used = generator.random(500) < 0.1
    values = np.where(used, generator.integers(-7, 8, (400, 500)), 0).ravel()
    assert len(coded(values, 500)) < 0.65 * entropy_bytes(values)


def test_a_reader_of_the_specification_reads_symbols_flags_and_numbers():
    generator = np.random.default_rng()
    for _ in range(10):
        counts = generator.integers(1, 10_000, int(generator.integers(2, 50)))
        symbols = generator.integers(0, len(counts), 200)
        chances = generator.random(200) * 0.98 + 0.01
        flags = generator.random(200) < chances
        numbers = generator.integers(0, 2**37, 50)
        encoder = Encoder()
        encoder.symbols(symbols, counts, len(symbols))
        encoder.flags(flags, chances)
        for number in numbers:
            encoder.numbers(np.array([number]), 37, 1)
        reader = ReferenceDecoder(encoder.finish())
        assert [reader.symbol(intervals(counts.tolist())) for _ in symbols] == symbols.tolist()
        assert [bool(reader.symbol(intervals([1 - p, p]))) for p in chances.tolist()] == flags.tolist()
        assert [reader.number(37) for _ in numbers] == numbers.tolist()


def test_a_payload_that_is_too_long_or_no_words_is_refused():
    content = coded(np.arange(100), 10)
    decoder = Decoder(content + bytes(range(1, 9)))
    code_integers(decoder, np.zeros(100, np.int64), 10)
    with pytest.raises(ConfigError, match="longer than its header says"):
        decoder.finish()
    with pytest.raises(ConfigError, match="words of 4 bytes"):
        Decoder(content[:-1])
