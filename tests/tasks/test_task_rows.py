import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import TaskError
from trimtab.tasks.rows import concatenate, count, describe, take, tensors


def batch(rows):
    return {"a": torch.randn(rows, 3), "b": (torch.arange(rows), [torch.randn(rows)])}


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_concatenated_rows_are_the_rows(sizes):
    batches = [batch(rows) for rows in sizes]
    whole = concatenate(batches)
    assert count(whole) == sum(sizes)
    start = 0
    for part, rows in zip(batches, sizes, strict=True):
        again = take(whole, torch.arange(start, start + rows))
        assert all(torch.equal(x, y) for x, y in zip(tensors(again), tensors(part), strict=True))
        start += rows


def test_structure_is_kept():
    taken = take(batch(4), torch.tensor([3, 0, 3]))
    assert isinstance(taken["b"], tuple)
    assert isinstance(taken["b"][1], list)
    assert taken["b"][0].tolist() == [3, 0, 3]


def test_rows_must_agree():
    with pytest.raises(TaskError, match=r"same dimension 0, got \(float32\[2\], int64\[3\]\)"):
        count((torch.zeros(2), torch.arange(3)))
    with pytest.raises(TaskError, match="same dimension 0"):
        count(torch.tensor(1.0))
    with pytest.raises(TaskError, match=r"every dimension but the first, got float32\[2, 3\] and float32\[2, 4\]"):
        concatenate([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(TaskError, match="got str"):
        tensors({"a": "text"})


def test_describe():
    assert describe({"x": torch.zeros(2, 3), "y": [torch.zeros(1, dtype=torch.int8), 3]}) == (
        "{x: float32[2, 3], y: (int8[1], int)}"
    )
