"""A job: one task, one target, one run folder. Each stage of the picture, remembered in the folder once it is done.

`compress` strings the stages together; the subcommands that take a RUN call them one by one.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from trimtab.apply import apply
from trimtab.errors import RunError
from trimtab.graph import Network, capture
from trimtab.lower import Artifact, lower, lower_float, prove
from trimtab.lower import target as target_of
from trimtab.measure import artifact_peak, bops, drop_of, evaluate, first_rows, latencies, macs
from trimtab.plan import Budget, Plan, Proof, Record
from trimtab.recover import recover, settle
from trimtab.recover.seeding import seeded
from trimtab.report import Stages
from trimtab.run import Run
from trimtab.search import (
    Attempt,
    Judgement,
    Profile,
    Proposal,
    Rung,
    anchored,
    best_of,
    build_profile,
    search,
    widest_plan,
)
from trimtab.search.strategy import LADDER
from trimtab.tasks import Inputs, Task, load_task, split_test, validate
from trimtab.tasks.rows import batches_in, count

ARTIFACT, FLOAT_ARTIFACT, CANDIDATE = "model", "float", "candidate"
_LATENCY_SECONDS = 1.0
_RECOVERY_STEPS, _MOST_EPOCHS = 2500, 30


class Options(Record):
    """What decides the result besides task, target, seed and budget.

    `epochs` of one round of recovery; None: about 2500 steps, at most 30 epochs. `minutes` is a ceiling for the whole
    run; a run that it cuts short is the only one whose result depends on the clock.
    """

    recover: bool = True
    epochs: int | None = None
    minutes: float | None = None
    rounds: int = 3
    criterion: str = "taylor"
    calibration_rows: int = 1024


class Job:
    """Use as a context manager: the run folder is locked while it is open."""

    def __init__(self, run: Run, task: Task, *, progress: Stages) -> None:
        self.run, self.progress = run, progress
        self.task, note = split_test(task, run.header["seed"])
        self.notes = [note] if note else []
        self.budget: Budget = run.budget
        self.seed: int = run.header["seed"]
        self.options = Options(**run.header["options"])
        self.target = target_of(run.header["target"])

    @classmethod
    def open(
        cls,
        task: Task,
        path: str | Path,
        *,
        budget: Budget,
        target: str,
        seed: int,
        options: Options,
        spec: str = "",
        settings: Mapping[str, str] | None = None,
        progress: Stages,
    ) -> Self:
        """Begin or continue the run in `path`. `spec` and `settings` are what the command line calls the task."""
        target_of(target)
        validate(task)
        run = Run.open(
            path,
            task=spec or task.name,
            settings=settings or {},
            target=target,
            seed=seed,
            budget=budget,
            options=options.model_dump(),
        )
        return cls(run, task, progress=progress)

    @classmethod
    def load(cls, path: str | Path, *, progress: Stages) -> Self:
        """The job of an existing run folder; its task is loaded again from where it came."""
        run = Run.load(path)
        try:
            task = load_task(run.header["task"], run.header["settings"])
            return cls(run, task, progress=progress)
        except BaseException:
            run.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run.close()

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Any]:
        """Time and show a stage. Yields `advance`."""
        with self.run.stage(name), self.progress.stage(name, total) as advance:
            yield advance

    def file(self, name: str) -> Path:
        """The run's file `name`, with the target's suffix."""
        return self.run.file(name + self.target.suffix)

    # ── capture and baseline ────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def network(self) -> Network:
        """The task's network as a graph."""
        with self.stage("capture"):
            return capture(self.task.model, self.example)

    @cached_property
    def example(self) -> Inputs:
        """Three rows of what the network takes."""
        return self.task.example if self.task.example is not None else first_rows(self.task.train, 3)

    @cached_property
    def float_artifact(self) -> Artifact:
        """The network as its user would ship it today."""
        return lower_float(self.network, self.target, self.file(FLOAT_ARTIFACT))

    @cached_property
    def baseline(self) -> dict[str, float]:
        """The float network's size, MACs, BOPs, latency, and `metric` on the validation split."""

        def compute() -> dict[str, float]:
            metric = evaluate(self.float_artifact, self.task.val, self.task.metric).value
            return {**self._costs(self.float_artifact, self.network, None), "metric": metric}

        network = self.network
        with self.stage("baseline"):
            assert network is not None
            return dict(self.run.remember("baseline", compute))

    # ── profile and search ──────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def profile(self) -> Profile:
        """What every option costs; kept in `profile.json`."""
        name = "profile.json"
        if "profiled" not in self.run:
            network, baseline = self.network, self.baseline
            with self.run.stage("profile"):
                profile = build_profile(
                    network,
                    self.task,
                    self.target,
                    baseline=baseline,
                    progress=self.progress,
                    seed=self.seed,
                    criterion=self.options.criterion,
                    memo=self.run.remember,
                )
                widest = widest_plan(profile)
                profile = anchored(profile, widest, self.judged(widest).costs)
                self.run.write(name, profile.to_json())
            self.run.remember("profiled", lambda: True)
        return Profile.from_json(self.run.read(name), where=str(self.run.file(name)))

    def ladder(self) -> list[Rung]:
        """Plans of falling size, judged without training: the frontier as it is before recovery."""
        profile = self.profile
        widest = widest_plan(profile)
        full = self.judged(widest).costs["size"]
        rungs = [Rung(fraction=1.0, plan=widest, judgement=self.judged(widest))]
        with self.stage("frontier", total=len(LADDER)) as advance:
            for fraction in LADDER[1:]:
                plan = search(profile, Budget(size=f"{fraction * full:.0f}B"))
                if plan is not None and plan != rungs[-1].plan:
                    rungs.append(Rung(fraction=fraction, plan=plan, judgement=self.judged(plan)))
                advance()
        return rungs

    def fitting(self) -> Plan | None:
        """The plan of least predicted loss whose artifact, as written and timed, keeps every limit but the drop."""
        profile = self.profile
        tighten: dict[str, float] = {}
        with self.stage("search"):
            for _ in range(5):
                plan = search(profile, self.budget, tighten=tighten)
                if plan is None:
                    return None
                costs = self.judged(plan).costs
                over = [
                    limit for limit in self.judged(plan).broken(self.budget, self.baseline) if limit.quantity != "drop"
                ]
                if not over:
                    return plan
                for limit in over:
                    excess = costs[limit.quantity] / limit.bound(self.baseline[limit.quantity])
                    tighten[limit.quantity] = tighten.get(limit.quantity, 1.0) / (excess * 1.005)
        return None

    # ── carry a plan out ────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def calibration(self) -> list[Inputs]:
        """Whole training batches, drawn from the seed, of at least `calibration_rows` rows in all."""
        batches: list[Inputs] = []
        with seeded(self.seed, 0, self.task.train):
            for inputs, _ in self.task.train:
                batches.append(inputs)
                if sum(count(batch) for batch in batches) >= self.options.calibration_rows:
                    break
        return batches

    def settled(self, plan: Plan) -> Network:
        """The plan applied, with batch norm and activation ranges set from data; nothing trained."""
        return settle(apply(self.network, plan), self.calibration, structure_changed=bool(plan.groups))

    def judged(self, plan: Plan) -> Judgement:
        """What the plan comes to without training."""

        def compute() -> dict[str, Any]:
            return self._judge(self.settled(plan), plan).model_dump()

        return Judgement(**self.run.remember(f"judged {plan.to_json()}", compute))

    def carry_out(self, proposal: Proposal, tried: list[Attempt]) -> Attempt:
        """Apply, recover, lower and judge; the trained weights are kept in `network-<number>.safetensors`."""
        number = len(tried)

        def compute() -> dict[str, Any]:
            network = self._beginning(proposal, tried)
            if self.options.recover:
                network = self._recovered(network, number)
            self.run.write(_weights(number), save_tensors(network.state_dict()))
            judged = self._judge(network, proposal.plan)
            return Attempt(plan=proposal.plan, judgement=judged, continues=proposal.continues).model_dump(mode="json")

        remembered = self.run.remember(f"attempt {number} {proposal.to_json()}", compute)
        return Attempt.from_json(json.dumps(remembered), where=f"{self.run.path}: attempt {number}")

    def attempts(self) -> list[Attempt]:
        """What was carried out so far in this run, in order."""
        return [Attempt.from_json(json.dumps(value), where=key) for key, value in self.run.remembered("attempt ")]

    def best(self) -> tuple[int, Plan]:
        """The attempt that the run delivers. Raises: RunError when there is none yet."""
        attempts = self.attempts()
        if not attempts:
            raise RunError(f"{self.run.path}: nothing was carried out yet; run `trimtab compress` on it first")
        number = best_of(self.budget, self.baseline, attempts)
        return number, attempts[number].plan

    def trained(self, number: int, plan: Plan) -> Network:
        """The network of an attempt, with the weights that it ended with."""
        network = self.settled(plan)
        network.load_state_dict(load_tensors(self.run.read(_weights(number))))
        network.eval()
        return network

    def lower(self, network: Network, name: str = ARTIFACT) -> Artifact:
        """Write the artifact into the run folder."""
        return lower(network, self.target, self.file(name))

    def prove(self, artifact: Artifact, network: Network) -> Proof:
        """Against the test split, which no choice has seen."""
        assert self.task.test is not None  # split_test made one
        return prove(artifact, network, self.task.test)

    def _beginning(self, proposal: Proposal, tried: list[Attempt]) -> Network:
        if proposal.continues is None:
            return self.settled(proposal.plan)
        return self.trained(proposal.continues, proposal.plan)

    def _recovered(self, network: Network, number: int) -> Network:
        steps = batches_in(self.task.train)
        epochs = self.options.epochs or max(1, min(_MOST_EPOCHS, round(_RECOVERY_STEPS / max(steps, 1))))
        with self.stage("recover", total=epochs * steps) as advance:
            done = 0

            def on_step(now: int, total: int, text: str) -> None:
                nonlocal done
                advance(now - done)
                done = now

            return recover(
                network,
                self.task,
                teacher=self.network,
                epochs=epochs,
                seed=self.seed + number,
                checkpoint=self.run.file(f"recover-{number}.safetensors"),
                on_step=on_step,
                deadline=self._deadline(),
            ).network

    def _judge(self, network: Network, plan: Plan) -> Judgement:
        artifact = lower(network, self.target, self.file(CANDIDATE))
        metric = evaluate(artifact, self.task.val, self.task.metric).value
        drop = drop_of(self.baseline["metric"], metric, self.task.metric)
        return Judgement(costs=self._costs(artifact, network, plan), drop=drop)

    def _costs(self, artifact: Artifact, network: Network, plan: Plan | None) -> dict[str, float]:
        """By the names of the budget's quantities; what takes long to measure only when it is limited."""
        costs = {"size": float(artifact.file_bytes), "macs": float(macs(network)), "bops": float(bops(network, plan))}
        threads, batch = self.target.threads, self.target.batch
        if self.budget.limit("latency") is not None:
            costs["latency"] = self._milliseconds(artifact)
        if self.budget.limit("memory") is not None:
            costs["memory"] = float(artifact_peak(artifact, batch=batch, threads=threads) or "nan")
        return costs

    def _milliseconds(self, artifact: Artifact) -> float:
        """Latency beside the float network's, in turn, on the scale of the baseline: machines drift between two looks."""
        inputs = first_rows(self.task.val, self.target.batch)
        both = {"it": artifact, "float": self.float_artifact}
        timed = latencies(both, inputs, threads=self.target.threads, seconds=_LATENCY_SECONDS)
        if "baseline" not in self.run:
            return timed["it"].median_ms
        return timed["it"].median_ms / timed["float"].median_ms * self.baseline["latency"]

    def _deadline(self) -> float | None:
        if self.options.minutes is None:
            return None
        return time.monotonic() + 60 * self.options.minutes - self.spent()

    def spent(self) -> float:
        """Seconds spent on this run so far, over all attempts."""
        return sum(self.run.seconds().values())

    def out_of_time(self) -> bool:
        """Whether `minutes` are used up."""
        deadline = self._deadline()
        return deadline is not None and time.monotonic() >= deadline


def _weights(number: int) -> str:
    return f"network-{number}.safetensors"
