"""`tt.profile`: a profile outside a run, for whoever uses the stages one by one."""

from pathlib import Path
from tempfile import TemporaryDirectory

from trimtab.apply import apply
from trimtab.graph import Network
from trimtab.lower import lower, lower_float
from trimtab.measure import bops, macs
from trimtab.plan import Target
from trimtab.recover import settle
from trimtab.recover.seeding import seeded
from trimtab.search.plan_search import anchored, widest_plan
from trimtab.search.profile import RANKING_ROWS, Profile, Silent, build_profile, first_batches, with_kernel_times
from trimtab.tasks.task import Task


def profile(network: Network, task: Task, target: Target, *, seed: int = 0, criterion: str = "taylor") -> Profile:
    """What every option of every group and layer costs on `target`: loss, bytes, MACs, BOPs, milliseconds.

    Sizes are relative to the float ONNX file, and set right on the file of the network with everything in integers.
    Raises: ConfigError for a network without layers or an unknown criterion; NumericsError for outputs not finite.
    """
    with TemporaryDirectory() as folder:
        original = lower_float(network, target, Path(folder) / "float")
        baseline = {
            "size": float(original.file_bytes),
            "macs": float(macs(network)),
            "bops": float(bops(network)),
        }
        built = build_profile(
            network, task, target, baseline=baseline, progress=Silent(), seed=seed, criterion=criterion
        )
        built = with_kernel_times(built, network, target, progress=Silent())
        widest = widest_plan(built)
        with seeded(seed, 0, task.train):
            batches = [inputs for inputs, _ in first_batches(task.train, RANKING_ROWS)]
        settled = settle(apply(network, widest), batches, structure_changed=False)
        return anchored(built, widest, {"size": float(lower(settled, target, Path(folder) / "int8").file_bytes)})
