"""Networks that are no image classifiers, in 8 bits: recurrent layers, attention, a U-Net, tables of embeddings."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import trimtab as tt
from harness import Claim
from quantizing.small import learn
from quantizing.tasks import TASKS
from trimtab.lower import lower_float
from trimtab.measure import evaluate

PROTOCOL = """\
An LSTM on spoken digits, a GRU on SST-2, a transformer on AG News, a U-Net on membranes of cells, a recommender on
MovieLens: small, trained here for seconds (EPOCHS), then `tt.quantize` in 8 bits for ONNX Runtime, ranges from eight
batches of train, `settle`, `lower`, `prove` on the whole test split. A prediction is that of a row, in the U-Net those
of all its pixels. Accuracies are those of the two files, float and int8, executed.
"""
EPOCHS = {"LSTM": 6, "GRU": 3, "transformer": 3, "U-Net": 1, "recommender": 1}
CALIBRATION = 8
GOAL = 99.9


def run(
    name: str, *, folder: Path, rows: int | None = None, batches: int | None = None, epochs: int | None = None
) -> list[dict[str, Any]]:
    """One network. `rows`, `batches`: batches of test and of train, None for all."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    task = TASKS[name]()
    train, test = list(islice(task.train, batches)), list(islice(task.test or (), rows))
    learn(task.model, train, F.cross_entropy, epochs=epochs or EPOCHS[name])
    network = tt.capture(task.model, train[0][0])
    target = tt.target("onnxruntime")
    plan = tt.quantize(network, target=target)
    fake = tt.settle(tt.apply(network, plan), [inputs for inputs, _ in train[:CALIBRATION]])
    artifact = tt.lower(fake, target, folder / "int8.onnx")
    floating = lower_float(network, target, folder / "float.onnx")
    proof = tt.prove(artifact, fake, test)
    return [
        {
            "family": name,
            "rows": proof.rows,
            "same predictions, %": 100 * proof.agreement,
            "identical rows, %": 100 * proof.identical_rows,
            "largest difference": proof.max_abs_diff,
            "same predictions as trained, %": 100 * proof.training_agreement,
            "integer kernels": proof.integer_ops,
            "float kernels": proof.float_ops,
            "left in float": list(proof.fallbacks),
            "bytes": artifact.file_bytes,
            "bytes, float": floating.file_bytes,
            "original, test %": 100 * evaluate(floating, test, task.metric).value,
            "file, test %": 100 * evaluate(artifact, test, task.metric).value,
        }
    ]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Each is proved, and has integer kernels."""
    found = []
    for row in rows:
        if "family" in row:
            where = f"{row['family']} in int8"
            same, kernels = row["same predictions, %"], sum(row["integer kernels"].values())
            found += [
                Claim(f"{where}: agreement with the simulation", GOAL, same, "% of predictions", at_least=True),
                Claim(f"{where}: integer kernels", 1, kernels, "kernels", at_least=True),
            ]
    return found
