"""A killed recovery that is started again ends with the same bytes; a checkpoint of anything else is refused."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open

from trimtab.errors import RunError
from trimtab.recover import Settings, recover

EPOCHS = 3


def contents(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module", params=[("adamw", "float32"), ("sgd", "bfloat16")], ids=lambda p: "-".join(p))
def whole(request, lab, tmp_path_factory):
    settings = Settings(optimizer=request.param[0], precision=request.param[1])
    path = tmp_path_factory.mktemp("whole") / "deep" / "recover.safetensors"
    result = recover(lab.damaged, lab.task, teacher=lab.network, epochs=EPOCHS, settings=settings, checkpoint=path)
    return settings, path, result


@pytest.mark.parametrize("kills", [(1,), (7,), (10,), (11,), (20,), (26, 29), (3, 13, 23), (30,)])
def test_killed_anywhere_and_started_again(lab, whole, tmp_path, kills):
    settings, path, expected = whole
    mine = tmp_path / "recover.safetensors"
    for kill in kills:

        def die(done, total, text, kill=kill):
            if done == kill:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            recover(
                lab.damaged,
                lab.task,
                teacher=lab.network,
                epochs=EPOCHS,
                settings=settings,
                checkpoint=mine,
                on_step=die,
            )
        torch.rand(5)  # another process would have other random numbers
    result = recover(lab.damaged, lab.task, teacher=lab.network, epochs=EPOCHS, settings=settings, checkpoint=mine)
    assert mine.read_bytes() == path.read_bytes()
    assert (result.history, result.best_metric) == (expected.history, expected.best_metric)
    for name, tensor in expected.network.state_dict().items():
        assert torch.equal(tensor, result.network.state_dict()[name]), name


def test_a_finished_run_is_only_read(lab, whole):
    settings, path, expected = whole

    def fail(*_):
        raise AssertionError("it trained again")

    result = recover(
        lab.damaged, lab.task, teacher=lab.network, epochs=EPOCHS, settings=settings, checkpoint=path, on_step=fail
    )
    assert result.history == expected.history


def test_the_checkpoint_holds_the_best_network_from_the_first_moment(lab, tmp_path):
    path = tmp_path / "c.safetensors"

    def die(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(lab.damaged, lab.task, epochs=1, checkpoint=path, on_step=die)
    metadata, tensors = contents(path)
    header = json.loads(metadata["trimtab.recover"])
    assert header["progress"]["epochs_done"] == 0
    for name, tensor in lab.damaged.state_dict().items():
        assert torch.equal(tensors[f"best/{name}"], tensor)


def test_checkpoints_of_other_runs_are_refused(lab, whole, tmp_path):
    settings, path, _ = whole
    same = {"epochs": EPOCHS, "settings": settings, "checkpoint": path, "teacher": lab.network}
    with pytest.raises(RunError, match=r"checkpoint of another run, its seed is 0, not 1; delete it"):
        recover(lab.damaged, lab.task, seed=1, **same)
    with pytest.raises(RunError, match="its epochs is 3, not 4"):
        recover(lab.damaged, lab.task, **same | {"epochs": 4})
    with pytest.raises(RunError, match="its starting weights"):
        recover(lab.network, lab.task, **same)
    with pytest.raises(RunError, match="its settings"):
        recover(lab.damaged, lab.task, **same | {"settings": Settings(learning_rate=0.123)})
    with pytest.raises(RunError, match="its teacher"):
        recover(lab.damaged, lab.task, **same | {"teacher": None})


def test_damaged_and_foreign_files_are_refused_and_kept(lab, whole, tmp_path):
    for content in (whole[1].read_bytes()[:-100], b"", pickle.dumps({"weights": [1]})):
        path = tmp_path / "c.safetensors"
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"c\.safetensors: not a readable checkpoint"):
            recover(lab.damaged, lab.task, epochs=EPOCHS, checkpoint=path)
        assert path.read_bytes() == content
