"""Quantization without training, and how fast what it makes is beside the runtimes' own tools.

The whole takes hours on two cores. `--part NAME` runs one part, in a process of its own; every part is kept in
`runs/quantize` when it is done. Without `--part` what is not there yet is run, and everything is written to `--json`.
Needs TRIMTAB_DATA and TRIMTAB_WEIGHTS, and torchvision in the folder that ZOO names (`make zoo` installs it).
"""

from functools import partial
from pathlib import Path

from parts import Part, Row, main
from quantizing import post_training, speed

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
    return found


def _samples(depth: int, bits: tuple[int, int], rows: int | None) -> list[Row]:
    return [post_training.run(depth, bits=bits, seed=seed, rows=rows) for seed in range(post_training.SAMPLES)]


if __name__ == "__main__":
    main(__doc__ or "", WORK, (post_training, speed), parts)
