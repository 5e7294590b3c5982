"""With every option on at once, a killed recovery that is started again ends with the same bytes."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from trimtab.graph import capture
from trimtab.lower import onnxruntime
from trimtab.plan import Dynamic, GroupDecision, LayerDecision, Penalty, Plan, RigL, Weights
from trimtab.prepare import prepare
from trimtab.recover import Imitation, Settings, recover

EPOCHS, BATCHES = 4, 10


class Residual(nn.Module):
    """[rows, 1, 8, 8] to ten classes, with a branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.conv(x).relu()
        return self.head(self.dropout(x.mean((2, 3))))


@pytest.fixture(scope="module", params=["adamw-dynamic", "sgd-rigl"])
def case(request, lab):
    torch.manual_seed(3)
    student, teacher = Residual(8).eval(), Residual(12).eval()
    network = capture(student, next(iter(lab.task.val))[0][:5])
    stored = {"weight": onnxruntime.WEIGHT_INT8, "activation": onnxruntime.ACTIVATION_INT8}
    adamw = request.param == "adamw-dynamic"
    group = next(group for group in network.groups if group.width == 8)
    plan = Plan(
        fingerprint=network.fingerprint,
        target="onnxruntime",
        layers=(LayerDecision(layer="conv", sparsity=Weights(fraction=0.7), **stored),),
        groups=(GroupDecision(group=group.name, kept=(0, 1, 3, 4, 6)),) if adamw else (),
    )
    batches = [x for x, _ in itertools.islice(lab.task.train, 2)]
    schedule = Dynamic(stop=0.5, every=2) if adamw else RigL(stop=0.6, every=2)
    settings = Settings(
        optimizer="adamw" if adamw else "sgd",
        learning_rate=1e-2,
        rate="one_cycle",
        accumulate=3,
        ema=0.8,
        patience=2,
        penalty=Penalty(kind="l0" if adamw else "group_lasso", strength=1e-4, growth=2.0, until=0.9),
        distillation=0.5,
        imitate=(
            Imitation(places=(("conv", "conv"),)),
            Imitation(kind="attention", places=(("conv", "conv"), ("relu", "norm")), weight=0.5),
        ),
        freeze_norm_at=0.6,
        reestimate=3,
    )
    return {
        "network": prepare(network, None, plan, schedule=schedule, calibration=batches),
        "task": lab.task,
        "teacher": teacher,
        "epochs": EPOCHS,
        "settings": settings,
        "seed": 5,
    }


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "recover.safetensors"
    return path, recover(**case, checkpoint=path)


def test_everything_takes_part(whole):
    _, result = whole
    assert any("batch norm" in entry.note for entry in result.history)
    losses = [entry.train_loss for entry in result.history if entry.train_loss is not None]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kills", [(5,), (10,), (11, 12), (3, 13, 23, 33), (40,)])
def test_killed_anywhere_and_started_again(case, whole, tmp_path, kills):
    path, expected = whole
    mine = tmp_path / "recover.safetensors"
    for kill in kills:

        def die(done, total, text, kill=kill):
            if done == kill:
                raise KeyboardInterrupt

        if kill <= BATCHES * expected.epochs_done:
            with pytest.raises(KeyboardInterrupt):
                recover(**case, checkpoint=mine, on_step=die)
        torch.rand(5)  # another process would have other random numbers
    result = recover(**case, checkpoint=mine)
    assert mine.read_bytes() == path.read_bytes()
    assert (result.history, result.best_metric) == (expected.history, expected.best_metric)
    for name, tensor in expected.network.state_dict().items():
        assert tensor.numpy().tobytes() == result.network.state_dict()[name].numpy().tobytes(), name
