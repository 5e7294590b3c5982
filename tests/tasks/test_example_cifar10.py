"""The CIFAR-10 example on the real data and weights: TRIMTAB_DATA and TRIMTAB_WEIGHTS must be set, here as in CI."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.errors import TaskError
from trimtab.tasks import limit_threads, load_task, validate

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "cifar10_resnet.py")


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share the cores; threads that wait for each other take many times as long."""
    with limit_threads(1):
        yield


@pytest.fixture(scope="module")
def task():
    return load_task(EXAMPLE, {"depth": "20", "batch": "64"})


def test_the_pretrained_network_is_as_accurate_as_published(task):
    validate(task)
    assert task.name == "cifar10_resnet-batch=64-depth=20"
    assert sum(parameter.numel() for parameter in task.model.parameters()) == 269_722
    right = total = 0
    with torch.no_grad():
        for number, (images, labels) in enumerate(task.test):
            if number % 5 == 0:
                right += (task.model(images).argmax(1) == labels).sum().item()
                total += len(labels)
    assert total == 2000
    assert abs(right / total - 0.9173) < 0.02


def test_the_splits(task):
    assert [len(getattr(task, split).labels) for split in ("train", "val", "test")] == [45_000, 5_000, 10_000]
    with np.load(Path(os.environ["TRIMTAB_DATA"]) / "cifar10" / "train.npz", allow_pickle=False) as arrays:
        last = arrays["labels"][-5000:]
    assert torch.cat([labels for _, labels in task.val]).tolist() == last.tolist()


def test_augmentation_gives_windows_of_the_padded_image_or_its_mirror(task):
    torch.manual_seed(0)
    images, labels = next(iter(task.train))
    torch.manual_seed(0)
    order = torch.randperm(45_000)[:64]
    assert torch.equal(labels, task.train.labels[order])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((images * std.view(3, 1, 1) + mean.view(3, 1, 1)) * 255).round().to(torch.uint8)
    seen = set()
    for image, index in zip(pixels, order[:16].tolist(), strict=False):
        padded = np.pad(task.train.images[index].numpy(), ((0, 0), (4, 4), (4, 4)))
        places = [
            (y, x, flipped)
            for y in range(9)
            for x in range(9)
            for flipped in (False, True)
            if np.array_equal(image.numpy()[:, :, :: -1 if flipped else 1], padded[:, y : y + 32, x : x + 32])
        ]
        assert places
        seen.update(places)
    assert len(seen) > 8


def test_an_epoch_follows_the_global_seed(task):
    def first(seed):
        torch.manual_seed(seed)
        return next(iter(task.train))[0]

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


@pytest.mark.parametrize("variable", ["TRIMTAB_DATA", "TRIMTAB_WEIGHTS"])
def test_missing_folders_say_what_to_set(variable, monkeypatch, tmp_path):
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(TaskError, match=rf"no file {tmp_path}.*set {variable} to the folder"):
        load_task(EXAMPLE)
    monkeypatch.delenv(variable)
    with pytest.raises(TaskError, match=f"set {variable} to the folder"):
        load_task(EXAMPLE)
