"""The callback in the real Hugging Face Trainer: a model that is prepared, and one that holds what is."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from trimtab.errors import ConfigError
from trimtab.graph import Network, capture
from trimtab.integrations.huggingface import PruningCallback
from trimtab.plan import Gradual, GroupDecision, LayerDecision, Plan, Schedule, Static, Weights
from trimtab.prepare import Prepared, finalize, prepare

ROWS = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
DATA = [{"rows": row, "labels": (row.sum() > 0).long()} for row in ROWS]


class Classifier(nn.Module):
    """As Hugging Face's: it computes its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, rows: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.body(rows)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Holder(nn.Module):
    """A model around the prepared network, which has no labels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.levels: list[float] = []

    def forward(self, rows: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if isinstance(self.inner, Prepared):
            self.levels.append(self.inner.level)
        logits = self.inner(rows)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def batch(rows: int) -> dict[str, Tensor]:
    return {"rows": ROWS[:rows], "labels": torch.zeros(rows, dtype=torch.long)}


def prepared_of(model: nn.Module, example: Any, group: str, schedule: Schedule) -> Prepared:
    network = capture(model, example)
    plan = Plan(
        fingerprint=network.fingerprint,
        target="onnxruntime",
        groups=(GroupDecision(group=group, kept=tuple(range(0, 16, 2))),),
        layers=(LayerDecision(layer=group, sparsity=Weights(fraction=0.5)),),
    )
    return prepare(network, None, plan, schedule=schedule)


def holder(schedule: Schedule) -> Holder:
    torch.manual_seed(0)
    return Holder(prepared_of(Classifier().body, ROWS[:5], "0", schedule))


def train(model: nn.Module, folder: Path, resume: str | None = None, **options: Any) -> Trainer:
    options = {"save_strategy": "no", "max_steps": 12, "num_train_epochs": 10, **options}
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        learning_rate=0.01,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    trainer = Trainer(model, arguments, train_dataset=DATA, callbacks=[PruningCallback()])  # type: ignore[arg-type]
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def check(final: Network, layer: str) -> None:
    weight = final.module.get_parameter(f"{layer}.weight")
    assert weight.shape == (8, 6)
    assert int((weight == 0).sum()) == 24


@pytest.mark.parametrize("schedule", [Static(), Gradual(every=1)], ids=lambda s: s.kind)
def test_a_prepared_model_is_trained(schedule: Schedule, tmp_path: Path) -> None:
    prepared = prepared_of(Classifier(), batch(5), "body.0", schedule)
    train(prepared, tmp_path, remove_unused_columns=False)
    final = finalize(prepared)
    check(final, "body.0")
    prepared.eval()
    for name, value in prepared(**batch(9)).items():
        torch.testing.assert_close(final(**batch(9))[name], value)


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    model = holder(Gradual(every=1, stop=0.5, curve="linear"))
    train(model, tmp_path, max_steps=4, gradient_accumulation_steps=3)
    assert model.levels == [0.0] * 3 + [0.5] * 3 + [1.0] * 6
    assert isinstance(model.inner, Prepared)
    check(finalize(model.inner), "0")


def test_a_resume_is_exact(tmp_path: Path) -> None:
    schedule = Gradual(every=1, stop=0.9)
    whole, resumed = holder(schedule), holder(schedule)
    train(whole, tmp_path, save_strategy="steps", save_steps=5)
    train(resumed, tmp_path, resume=str(tmp_path / "checkpoint-5"))
    assert resumed.levels == whole.levels[5:]
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_a_model_without_a_prepared_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs one module made by trimtab\.prepare in it, found 0; make it an attr"):
        train(Classifier(), tmp_path)
    two = nn.ModuleList([holder(Static()), holder(Static())])
    two.forward = lambda rows, labels: two[0](rows, labels)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"found 2; .* and keep the other apart"):
        train(two, tmp_path, remove_unused_columns=False)
