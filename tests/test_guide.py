"""The guide's own code runs, as it is printed there."""

import re
from pathlib import Path

import pytest
import torch

from trimtab.graph import Network

GUIDE = (Path(__file__).parent.parent / "docs" / "guide.md").read_text()


def code(heading: str) -> str:
    """The first block of Python under a heading."""
    section = GUIDE.partition(f" {heading}\n")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None, heading
    return found[1]


def run(heading: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The names that the code under a heading leaves, run in a folder that has the guide's task."""
    (folder / "cancer.py").write_text(code("Write a task"))
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code(heading), names)
    return names


def test_a_training_loop_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("In your own training loop", tmp_path, monkeypatch)
    smaller = names["smaller"]
    assert isinstance(smaller, Network)
    weight = smaller.module.get_parameter("2.weight")
    assert weight.shape == (256, 64)
    assert float((weight == 0).double().mean()) == pytest.approx(0.8, abs=1e-4)


def test_zeros_inside_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("Zeros inside layers", tmp_path, monkeypatch)
    trained, smaller = names["trained"], names["smaller"]
    assert isinstance(trained, Network)
    assert isinstance(smaller, Network)
    zeros = [float((trained.module.get_parameter(f"{name}.weight") == 0).double().mean()) for name in ("2", "4")]
    assert zeros == pytest.approx([0.75, 0.9], abs=1e-3)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in trained.parameters()) / 2
    assert (tmp_path / "sparse.onnx").exists()


def test_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("Recovery", tmp_path, monkeypatch)
    weight = names["recovered"].network.module.get_parameter("2.weight")  # type: ignore[attr-defined]
    assert weight.shape == (256, 128)
    assert float((weight == 0).double().mean()) == pytest.approx(0.9, abs=1e-3)
    assert (tmp_path / "recover.safetensors").exists()
    assert len(list((tmp_path / "events").iterdir())) == 1


def test_few_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("Few bits", tmp_path, monkeypatch)
    assert [(d.layer, d.weight.bits) for d in names["weights_only"].layers] == [("0", 8), ("2", 4)]  # type: ignore[attr-defined]
    assert names["floating"].fingerprint == names["network"].fingerprint  # type: ignore[attr-defined]
    entries = {"0": 30 * 256, "2": 256 * 256, "4": 256 * 2}
    for plan in ("plan", "by_hessian"):
        bits = {d.layer: d.weight.bits for d in names[plan].layers}  # type: ignore[attr-defined]
        assert sum(bits[name] * n for name, n in entries.items()) <= 5 * sum(entries.values())
