"""The commands that README and guide print are run, as they are printed, and no option is missing from the guide."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import trimtab as tt
from test_guide import GUIDE, code
from trimtab.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = typer.main.get_command(app).commands
PRINTED = re.findall(r"^(?:    )?(trimtab [a-z]+ +(?:cancer|mytask|runs)[^#\n]*)", f"{README}\n{GUIDE}", re.MULTILINE)
QUICKLY = {"compress": ["--epochs", "1", "--minutes", "0.1"]}
"""What is added so that a test does not take minutes; everything else is as printed."""


def test_the_commands_are_found() -> None:
    assert len(PRINTED) >= 15
    assert {shlex.split(line)[1] for line in PRINTED} >= {"inspect", "compress", "prune", "quantize", "apply", "pack"}


@pytest.mark.timeout(900)
def test_every_printed_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one folder, in the order in which they are printed; a budget may be missed, nothing may fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trimtab.judge._LATENCY_SECONDS", 0.05)
    monkeypatch.setattr("trimtab.conclude._LATENCY_SECONDS", 0.2)
    for name in ("cancer.py", "mytask.py"):
        Path(name).write_text(code("Write a task"))
    for line in PRINTED:
        words = shlex.split(line)[1:]
        if "--latency-table" in words:  # "bring the file along", to another machine
            shutil.copy("there/profile.json", "profile.json")
            shutil.rmtree("runs/cancer")
        ran = CliRunner().invoke(app, [*words, *QUICKLY.get(words[0], [])])
        assert ran.exit_code in ((0, 3) if words[0] == "compress" else (0,)), (line, ran.output, ran.exception)
    rows, labels = next(iter(tt.load_task("cancer.py").val))
    np.save("rows.npy", rows.numpy())
    script = f"import sys\n{code('Run what came out')}\nassert not {{'torch', 'trimtab'}} & set(sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    found = torch.tensor([int(label) for label in re.findall(r"\d", printed)])
    assert float((found == labels).double().mean()) >= 0.9


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_each_of_its_options_is_in_the_guide(name: str) -> None:
    assert f"### {name}\n" in GUIDE
    options = [
        max(parameter.opts, key=len) for parameter in COMMANDS[name].params if parameter.opts[0].startswith("--")
    ]
    missing = [option for option in options if option != "--help" and option not in GUIDE]
    assert missing == []
