"""Quantization without training, and how fast what it makes is beside the runtimes' own tools.

The whole takes hours on two cores. `--part NAME` runs one part, in a process of its own; every part is kept in
`runs/quantize` when it is done. Without `--part` what is not there yet is run, and everything is written to `--json`.
Needs TRIMTAB_DATA and TRIMTAB_WEIGHTS, and torchvision in the folder that ZOO names (`make zoo` installs it).
"""

from functools import partial
from pathlib import Path
from typing import Any

from parts import Log, Part, Row, main
from quantizing import agreement, families, post_training, speed, tiny, training
from trimtab.lower import TARGETS

WORK = Path("runs/quantize")


def parts(quick: bool) -> dict[str, Part]:
    """What can be run alone, by name; each gives rows."""
    found: dict[str, Part] = {}
    for depth, weights, activations in post_training.GOALS:
        name = f"ResNet-{depth}-W{weights}A{activations}"
        found[name] = partial(_samples, depth, (weights, activations), rows=4 if quick else None)
    seconds = dict.fromkeys(speed.BATCHES, 1.0) if quick else speed.SECONDS
    for runtime in speed.PEERS:
        for name in speed.NETWORKS:
            part = f"speed-{name.replace('/', '-')}-{runtime}"
            found[part] = partial(speed.run, name, folder=WORK / "files", runtime=runtime, seconds=seconds)
    for name in training.CASES:
        folder = (WORK / "quick" if quick else WORK) / "trained"
        found[f"trained-{name}"] = partial(_trained, name, folder=folder, epochs=1 if quick else None)
    files = (WORK / "quick" if quick else WORK) / "files"
    found["ResNet-8-MLPerf-Tiny"] = partial(
        tiny.run,
        folder=files / "ResNet-8",
        **({"candidates": tiny.CANDIDATES[:1], "images": 128, "rows": 2} if quick else {}),
    )
    short = {"rows": 1, "batches": 2} if quick else {}
    for runtime in TARGETS:
        for name in agreement.NETWORKS:
            part = f"agreement-{name.replace(' ', '-')}-{runtime}"
            found[part] = partial(agreement.run, name, runtime, folder=files / part, **short)
    found["ResNet-20-trained-W4"] = partial(
        agreement.run_narrow,
        folder=files / "W4",
        **({"rows": 1, "steps": 4, "seconds": 1.0} if quick else {}),
    )
    few = {"rows": 2, "batches": 4, "epochs": 1} if quick else {}
    for name in families.EPOCHS:
        found[name] = partial(families.run, name, folder=files / name, **few)
    return found


def _samples(depth: int, bits: tuple[int, int], rows: int | None) -> list[Row]:
    return [post_training.run(depth, bits=bits, seed=seed, rows=rows) for seed in range(post_training.SAMPLES)]


def _trained(name: str, **named: Any) -> list[Row]:
    return [training.run(name, **named, show=Log(name))]


if __name__ == "__main__":
    main(__doc__ or "", WORK, (post_training, training, speed, tiny, agreement, families), parts)
