"""Two processes under torchrun reach the weights of one process with the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import crew_runs
import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.recover import recover
from trimtab.recover.checkpoint import Entry

PROCESSES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes wrote: one launch for all tests, for starting takes seconds."""
    folder = tmp_path_factory.mktemp("crew")
    crew_runs.begin(folder / "one.safetensors")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    command = [sys.executable, *launcher, crew_runs.__file__, str(folder)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    try:
        _, said = process.communicate(timeout=270)
    finally:
        process.terminate()  # torchrun then ends its processes
    assert process.returncode == 0, said
    return folder


def written(folder: Path, name: str) -> list:
    return [torch.load(folder / f"{name}-{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("run", crew_runs.RUNS, ids=lambda run: run.__name__)
def test_two_processes_end_as_one(run, folder):
    alone = run(folder)
    (weights, lines), others = written(folder, run.__name__)
    history = [Entry.from_json(line, where="") for line in lines]
    assert lines == others[1]
    assert len(history) == len(alone.history)
    for entry, expected in zip(history, alone.history, strict=True):
        assert (entry.epoch, entry.note) == (expected.epoch, expected.note)
        for value, wanted in ((entry.train_loss, expected.train_loss), (entry.metric, expected.metric)):
            assert value == wanted or value == pytest.approx(wanted, rel=1e-5)
    for name, tensor in alone.network.state_dict().items():
        assert torch.equal(weights[name], others[0][name]), name
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=tolerance(run, tensor))


def tolerance(run, tensor) -> float:
    """Of a batch shared out wrongly (any of what data-parallel.md lists) the difference is 1e-3 to 1e-1."""
    if tensor.dtype == torch.float64:
        return 1e-10
    return 2e-5 if run.__name__.startswith("quantized") else 2e-6  # rounding makes steps of differences


def test_a_run_killed_in_two_processes_and_resumed_in_one_ends_as_one_that_was_not_killed(folder):
    whole, resumed = crew_runs.normed(folder), crew_runs.resumed(folder)
    for name, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[name], tensor, rtol=0, atol=1e-10)


def test_dropout_differs_between_processes_and_their_weights_do_not(folder):
    first, second = written(folder, "with_dropout")
    assert first[1] == second[1]
    for name, tensor in first[0].items():
        assert torch.equal(tensor, second[0][name]), name


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("seed", r"process 1 has another seed than process 0"),
        ("length", r"process 1 has another number of batches than process 0"),
        ("rows", r"process 1 reads other batches than process 0; .* \(no DistributedSampler\)"),
        ("val", r"process 1 reads other batches than process 0"),
    ],
)
def test_processes_that_do_not_do_the_same_all_say_so(folder, what, said):
    for refusals in written(folder, "refusals"):
        with pytest.raises(ConfigError, match=said):
            raise ConfigError(refusals[what].removeprefix("ConfigError: "))


def test_torchrun_without_a_group_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    task, network = crew_runs.rows()
    with pytest.raises(ConfigError, match=r"call torch\.distributed\.init_process_group"):
        recover(network, task, epochs=1)
