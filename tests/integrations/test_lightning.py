"""The callback in the real Lightning: steps are counted as the trainer counts them, and a resume is exact."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.errors import ConfigError
from trimtab.graph import Network, capture
from trimtab.integrations.lightning import PruningCallback
from trimtab.plan import Gradual, GroupDecision, LayerDecision, Plan, Schedule, Static, Weights
from trimtab.prepare import Prepared, finalize, prepare

# Lightning's own advice about loaders, and what torch says of Lightning's use of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
]

ROWS = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(ROWS, (ROWS.sum(1) > 0).long())


@pytest.fixture
def network() -> Network:
    return capture(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)), ROWS[:5])


def prepared_of(network: Network, schedule: Schedule) -> Prepared:
    plan = Plan(
        fingerprint=network.fingerprint,
        target="onnxruntime",
        groups=(GroupDecision(group="0", kept=tuple(range(0, 16, 2))),),
        layers=(LayerDecision(layer="0", sparsity=Weights(fraction=0.5)),),
    )
    return prepare(network, None, plan, schedule=schedule)


class Module(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.levels: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if isinstance(self.model, Prepared):
            self.levels.append(self.model.level)
        rows, labels = batch
        return F.cross_entropy(self.model(rows), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def fit(module: pl.LightningModule, folder: Path, *, ckpt_path: str | None = None, **options: Any) -> pl.Trainer:
    callbacks = [*options.pop("callbacks", []), PruningCallback()]
    options.setdefault("enable_checkpointing", False)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **options,
    )
    trainer.fit(module, DataLoader(DATA, batch_size=8), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("schedule", [Static(), Gradual(every=1)], ids=lambda s: s.kind)
def test_after_fit_the_network_is_final(network: Network, schedule: Schedule, tmp_path: Path) -> None:
    module = Module(prepared_of(network, schedule))
    fit(module, tmp_path, max_epochs=2)
    final = finalize(module.model)
    assert final.module.get_parameter("0.weight").shape == (8, 6)
    assert int((final.module.get_parameter("0.weight") == 0).sum()) == 24
    module.eval()
    torch.testing.assert_close(final(ROWS), module.model(ROWS))


def test_accumulated_batches_are_one_step(network: Network, tmp_path: Path) -> None:
    """12 batches of which 3 make a step: 4 steps, and a schedule that ends with the second."""
    module = Module(prepared_of(network, Gradual(every=1, stop=0.5, curve="linear")))
    fit(module, tmp_path, max_epochs=2, accumulate_grad_batches=3)
    assert module.levels == [0.0] * 3 + [0.5] * 3 + [1.0] * 6


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resume_is_exact(network: Network, tmp_path: Path) -> None:
    schedule = Gradual(every=1, stop=0.9)
    whole, resumed = (Module(prepared_of(network, schedule)) for _ in range(2))
    for module, start in ((whole, None), (resumed, str(tmp_path / "epoch=1.ckpt"))):
        saver = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{epoch}")
        fit(module, tmp_path, max_epochs=4, callbacks=[saver], enable_checkpointing=True, ckpt_path=start)
    assert len(resumed.levels) == 12
    assert resumed.levels == whole.levels[12:]
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_what_the_callback_cannot_serve_is_refused(network: Network, tmp_path: Path) -> None:
    class Manual(Module):
        automatic_optimization = False

    with pytest.raises(ConfigError, match=r"needs one module made by trimtab\.prepare in it, found 0; make it an attr"):
        fit(Module(nn.Linear(6, 2)), tmp_path, max_epochs=1)
    manual = Manual(prepared_of(network, Static()))
    manual.automatic_optimization = False
    with pytest.raises(ConfigError, match=r"manual optimization; leave it out and call step\(\) in training_step"):
        fit(manual, tmp_path, max_epochs=1)
    with pytest.raises(ConfigError, match="the trainer has no end: give it max_steps or max_epochs"):
        fit(Module(prepared_of(network, Static())), tmp_path, max_epochs=-1)
