"""Corruptions do what their names say, at growing strength, and only to tensors that they can happen to."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from trimtab.report.behaviour.corruptions import STRENGTHS, blur, contrast, corrupted, dropped, kinds, noise, shift

DRAWN = torch.Generator


def test_the_blur_is_that_of_scipy():
    x = torch.randn(2, 3, 32, 32)
    found = blur(x, 0.8, DRAWN())
    reach = round(3 * 0.8)
    expected = gaussian_filter(x.double().numpy(), (0, 0, 0.8, 0.8), mode="mirror", radius=(0, 0, reach, reach))
    assert torch.allclose(found.double(), torch.from_numpy(expected), atol=1e-5)


def test_noise_has_the_asked_share_of_the_deviation():
    x = 5 + 3 * torch.randn(4, 1, 64, 64)
    added = noise(x, 0.2, DRAWN().manual_seed(0)) - x
    assert float(added.std() / x.std()) == pytest.approx(0.2, rel=0.03)
    assert abs(float(added.mean())) < 0.05


def test_contrast_keeps_each_image_s_mean():
    x = torch.rand(4, 3, 9, 9)
    found = contrast(x, 0.3, DRAWN())
    assert torch.allclose(found.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-6)
    assert torch.allclose(found.flatten(1).std(1), 0.3 * x.flatten(1).std(1), atol=1e-6)


def test_a_shift_moves_right_and_down():
    x = torch.rand(2, 1, 20, 20)
    found = shift(x, 0.1, DRAWN())
    assert torch.equal(found[..., 2:, 2:], x[..., :-2, :-2])
    assert torch.equal(found[..., 2:, 0], x[..., :-2, 0])


def test_dropped_tokens_close_up_and_the_last_one_fills_the_end():
    x = torch.arange(1, 201).repeat(50, 1)
    found = dropped(x, 0.2, DRAWN().manual_seed(0))
    for row in found:
        kept = row[row < 200].tolist()
        assert kept == sorted(set(kept))
        assert (row[len(kept) :] == 200).all()
    assert float((found < 200).double().mean()) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.zeros(2, 3, 32, 32), ("noise", "blur", "contrast", "shift")),
        (torch.zeros(2, 64, 32, 32), ("noise",)),
        (torch.zeros(2, 1, 4, 4), ("noise",)),
        (torch.zeros(2, 40, 13), ("noise",)),
        (torch.zeros(2, 40, dtype=torch.long), ("dropped tokens",)),
        (torch.zeros(2, dtype=torch.long), ()),
        (torch.zeros(2, 40, dtype=torch.bool), ()),
    ],
)
def test_what_can_happen_to_what(x, expected):
    assert kinds(x) == expected


def test_stronger_is_further_away_and_the_same_seed_is_the_same():
    ramp = torch.arange(32.0).expand(8, 3, 32, 32)
    inputs = {"image": ramp + torch.rand(ramp.shape), "ids": torch.arange(60).repeat(8, 1), "which": torch.arange(8)}
    away: dict[str, list[float]] = {}
    for name, strength, changed in corrupted(inputs, seed=3):
        part = "ids" if name == "dropped tokens" else "image"
        assert all(torch.equal(changed[key], inputs[key]) for key in inputs if key != part)
        away.setdefault(name, []).append(float((changed[part].double() - inputs[part].double()).abs().mean()))
        again = next(x for n, s, x in corrupted(inputs, seed=3) if (n, s) == (name, strength))
        assert torch.equal(again[part], changed[part])
    assert set(away) == set(STRENGTHS)
    assert all(0 < low < middle < high for low, middle, high in away.values())
