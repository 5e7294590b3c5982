import io

import pytest
import torch

from trimtab.tasks import limit_threads, load_task, validate


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share the cores; threads that wait for each other take many times as long."""
    with limit_threads(1):
        yield


@pytest.fixture(scope="module")
def digits():
    return load_task("digits")


def accuracy(task, split):
    with torch.no_grad():
        return torch.cat([task.model(x).argmax(1) == y for x, y in getattr(task, split)]).double().mean().item()


def test_it_learns_the_digits(digits):
    validate(digits)
    assert digits.name == "digits"
    assert min(accuracy(digits, "val"), accuracy(digits, "test")) >= 0.98
    assert not digits.model.training


def test_the_splits_are_apart_and_complete(digits):
    images = {split: torch.cat([x for x, _ in getattr(digits, split)]) for split in ("val", "test")}
    images["train"] = digits.train.images
    assert {split: len(x) for split, x in images.items()} == {"train": 1078, "val": 360, "test": 359}
    assert torch.cat(list(images.values())).flatten(1).unique(dim=0).shape[0] == 1797


def test_the_same_seed_trains_the_same_network_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, two, other = (load_task("digits", {"seed": seed, "epochs": "1"}) for seed in ("3", "3", "4"))
    assert torch.equal(before, torch.get_rng_state())
    states = [task.model.state_dict() for task in (one, two, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


def test_an_epoch_follows_the_global_seed(digits):
    def epoch(seed):
        torch.manual_seed(seed)
        return torch.cat([x for x, _ in digits.train])

    assert torch.equal(epoch(5), epoch(5))
    assert not torch.equal(epoch(5), epoch(6))


def test_the_network_is_of_the_size_that_the_demo_promises(digits):
    file = io.BytesIO()
    torch.save(digits.model.state_dict(), file)
    assert 400_000 < file.tell() < 800_000
