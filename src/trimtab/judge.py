"""What an artifact comes to where choices are made: its costs on the target, its drop on the validation split."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from trimtab.graph import Network
from trimtab.lower import Artifact
from trimtab.measure import (
    Evaluation,
    artifact_peak,
    bootstrap_drop,
    bops,
    divergence,
    drop_of,
    evaluate,
    first_rows,
    latencies,
    macs,
)
from trimtab.plan import Budget, Options, Plan, Target
from trimtab.search import Judgement
from trimtab.store import pack
from trimtab.tasks import Task
from trimtab.tasks.rows import tensors

_LATENCY_SECONDS = 1.0
"""A network."""
_TIMED_BYTES = 2**28
"""What float files may take, were those that are timed together float files."""


def stored_beside(artifact: Artifact) -> Path:
    """Where the entropy-coded file of the same network is."""
    return artifact.path.with_suffix(".trim")


class Judge:
    """Judges artifacts of one task beside `original`, the artifact of its float network.

    With `predicted_ms` latency is what it says of a plan (None: the original), and nothing is timed.
    """

    def __init__(
        self,
        task: Task,
        target: Target,
        *,
        budget: Budget,
        options: Options,
        seed: int,
        original: Artifact,
        predicted_ms: Callable[[Plan | None], float] | None = None,
    ) -> None:
        self.task, self.target = task, target
        self.budget, self.options, self.seed = budget, options, seed
        self.original, self.predicted_ms = original, predicted_ms

    def baseline(self, network: Network) -> dict[str, float]:
        """Costs of the original, and `metric`, its value on the validation split."""
        return {**self.costs(self.original, network, None, None), "metric": self.metric}

    @property
    def metric(self) -> float:
        """Of the original, on the validation split."""
        return self._before.value

    def judgement(self, artifact: Artifact, network: Network, plan: Plan, baseline: Mapping[str, float]) -> Judgement:
        """Costs and drop beside `baseline`. With a confidence the drop is its bound."""
        after = evaluate(artifact, self.task.val, self.task.metric)
        drop = drop_of(baseline["metric"], after.value, self.task.metric)
        confidence = self.options.confidence
        if confidence is not None:
            drop = bootstrap_drop(self._before, after, self.task.metric, seed=self.seed, confidence=confidence).limited
        moved = None if self.options.refine == "none" else self._divergence(after)
        return Judgement(costs=self.costs(artifact, network, plan, baseline), drop=drop, divergence=moved)

    def costs(
        self, artifact: Artifact, network: Network, plan: Plan | None, baseline: Mapping[str, float] | None
    ) -> dict[str, float]:
        """By the names of the budget's quantities; what takes long to measure only when it is limited."""
        costs = {"size": float(artifact.file_bytes), "macs": float(macs(network)), "bops": float(bops(network, plan))}
        if self.budget.limit("latency") is not None:
            foreseen = self.predicted_ms
            costs["latency"] = self.milliseconds([artifact], baseline)[0] if foreseen is None else foreseen(plan)
        if self.budget.limit("stored_size") is not None:
            costs["stored_size"] = float(pack(network, stored_beside(artifact)).bytes)
        if self.budget.limit("memory") is not None:
            peak = artifact_peak(artifact, batch=self.target.batch, threads=self.target.threads)
            costs |= {} if peak is None else {"memory": float(peak)}
        return costs

    @cached_property
    def _before(self) -> Evaluation:
        """The original on the validation split."""
        return evaluate(self.original, self.task.val, self.task.metric)

    def _divergence(self, after: Evaluation) -> float:
        return divergence(tensors(after.outputs), tensors(self._before.outputs))

    def milliseconds(self, artifacts: Sequence[Artifact], baseline: Mapping[str, float] | None) -> list[float]:
        """Latency beside the original's, in turn, on the baseline's scale: machines drift between two looks.

        As many are timed together as memory allows: what the machine does meanwhile then happens to all of them.
        """
        inputs = first_rows(self.task.val, self.target.batch)
        at_once = max(1, _TIMED_BYTES // self.original.file_bytes)
        found: list[float] = []
        while len(found) < len(artifacts):
            some = {str(place): it for place, it in enumerate(artifacts[len(found) : len(found) + at_once])}
            seconds = _LATENCY_SECONDS * len(some)
            timed = latencies({**some, "float": self.original}, inputs, threads=self.target.threads, seconds=seconds)
            scale = 1.0 if baseline is None else baseline["latency"] / timed["float"].median_ms
            found += [timed[name].median_ms * scale for name in some]
        return found
