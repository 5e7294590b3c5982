"""How far outputs are apart: relative to the largest of their tensor, equal infinities are equal, NaN is not."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.graph.verify import compare

INF = float("inf")


@given(st.floats(1e-6, 1e6), st.integers(1, 20))
def test_a_difference_is_relative_to_the_largest_of_its_tensor_or_to_one(largest: float, n: int) -> None:
    reference = {"a": torch.rand(n) * largest, "b": [torch.ones(3)]}
    reference["a"][0] = largest
    output = {"a": reference["a"].double(), "b": [torch.ones(3)]}
    output["a"][-1] += 0.5
    expected = 0.5 / max(1.0, float(reference["a"].max()))
    found, count = compare(output, reference)
    assert abs(found - expected) <= 1e-6 * expected
    assert count == n + 3


def test_infinities_and_nan() -> None:
    reference = torch.tensor([1.0, INF, -INF])
    assert compare(reference.clone(), reference) == (0.0, 3)
    assert compare(torch.tensor([1.0, INF, INF]), reference)[0] == INF
    assert compare(torch.tensor([1.0, 5.0, -INF]), reference)[0] == INF
    assert compare(torch.tensor([float("nan")]), torch.tensor([1.0]))[0] == INF
    assert compare(torch.tensor([1.0]), torch.tensor([float("nan")]))[0] == INF
