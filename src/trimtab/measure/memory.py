"""Peak memory of an artifact, in a process of its own."""

import subprocess
import sys
from pathlib import Path

from trimtab.errors import LoweringError, TaskError
from trimtab.measure._peak import RUNTIMES as RUNTIMES

_WORKER = Path(__file__).with_name("_peak.py")


def peak_bytes(
    path: str | Path, *, runtime: str = "onnxruntime", batch: int = 1, threads: int = 1, runs: int = 3
) -> int:
    """What loading a file and running it on zeros adds to the resident memory of a fresh process, at its peak.

    `runtime` is one of RUNTIMES. The process has loaded it and run an empty network before the count begins, so that
    the runtime itself is not counted. Raises: TaskError when the file is missing; LoweringError when the runtime
    cannot run it.
    """
    file = Path(path)
    if not file.is_file():
        raise TaskError(f"memory: no such file {file}")
    command = [sys.executable, "-P", str(_WORKER), runtime, str(file), str(batch), str(threads), str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise LoweringError(f"memory: {file} cannot be loaded and run at batch {batch}: {last}")
    return int(done.stdout)
