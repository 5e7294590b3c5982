"""The smallest file at an accuracy, and what the file is as a file.

The whole takes hours on two cores. `--part NAME` runs one part, in a process of its own; every part is kept in
`runs/storage` when it is done, and takes its place among the others in `--json`. Without `--part` what is not there yet
is run, and everything is written to `--json`. Needs TRIMTAB_DATA and TRIMTAB_WEIGHTS, and `make nncodec`.
"""

from functools import partial
from pathlib import Path

from parts import Part, main
from storing import after_training, deep_compression, files, trained

WORK = Path("runs/storage")


def parts(quick: bool) -> dict[str, Part]:
    """What can be run alone, by name; each gives rows."""
    folder = WORK / "files"
    folder.mkdir(parents=True, exist_ok=True)
    few = {"prices": (1e-7, 1e-6), "qps": (-30, -20)} if quick else {}
    return {
        **{
            f"after-training-{name}": partial(after_training.run, name, folder=folder, **few)
            for name in after_training.NETWORKS
        },
        **{
            f"deep-compression-{name}": partial(
                deep_compression.run, name, folder=folder, **({"epochs": (1, 1)} if quick else {})
            )
            for name in deep_compression.CASES
        },
        **{
            f"trained-{name}-{seed}": partial(
                trained.run, name, seed, folder=folder, **({"epochs": 1} if quick else {})
            )
            for name, case in trained.CASES.items()
            for seed in case.seeds
        },
        "speed": partial(files.run_speed, folder=folder, **({"side": 512} if quick else {})),
        "memory": partial(files.run_memory, folder=folder, **({"side": 1024} if quick else {})),
        "header": partial(files.run_header, folder=folder),
        "mutations": partial(files.run_mutations, folder=folder, **({"number": 100} if quick else {})),
    }


if __name__ == "__main__":
    main(__doc__ or "", WORK, (after_training, deep_compression, trained, files), parts)
