"""A job: one task, one target, one run folder. Each stage of the picture, remembered in the folder once it is done.

`compress` strings the stages together; the subcommands that take a RUN call them one by one.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from trimtab.apply import apply
from trimtab.errors import ConfigError, RunError
from trimtab.graph import Network, capture
from trimtab.judge import Judge
from trimtab.lower import Artifact, lower, lower_float, prove
from trimtab.lower import target as target_of
from trimtab.measure import first_rows
from trimtab.plan import Budget, Limit, Options, Penalty, Plan, Proof, Target
from trimtab.plan.budget import Quantity
from trimtab.prepare import hold_plan
from trimtab.prune import UnitCriterion
from trimtab.quant.entropy import Entropy
from trimtab.recover import Settings, recover, repair, settle
from trimtab.recover.checkpoint import digest
from trimtab.recover.events import recording
from trimtab.recover.seeding import seeded
from trimtab.recover.stepwise import bytes_a_row
from trimtab.report import Stages
from trimtab.run import Run
from trimtab.search import (
    WHOLE_NETWORKS,
    Attempt,
    Judgement,
    Lesson,
    Profile,
    Proposal,
    Rung,
    anchored,
    best_of,
    build_profile,
    fitted,
    latency_of,
    lesson_of,
    of_network,
    random_plans,
    read_table,
    search_in_order,
    stages_of,
    stats_for,
    timed_elsewhere,
    widest_plan,
    with_kernel_times,
    with_latency_of,
)
from trimtab.search.profile import first_batches, profile_rows
from trimtab.search.pruning.scoring import scorer
from trimtab.search.sampling import SAMPLERS
from trimtab.search.strategy import LADDER
from trimtab.stats import Stats
from trimtab.tasks import Inputs, Task, load_task, split_test, validate
from trimtab.tasks.rows import batches_in

FROM_PYTHON = "python: "
"""Marks, in a run's header, a task that a program gave: no subcommand can load it again."""

SHARED = ("baseline", "orders", "latency table", "loss/", "bits/", "judged ", "timed ", "profiled")
"""What a run remembers that holds whatever its limits are."""

ARTIFACT, FLOAT_ARTIFACT, CANDIDATE, PROFILE = "model", "float", "candidate", "profile.json"
LATENCY = "latency.json"
"""The file of `Options.latency_table`, kept with the run."""

_SETTINGS, _SETTINGS_UNCUT = Settings(), Settings(freeze_norm_at=0.0)
"""Where nothing is gone, batch norm's statistics are right from the start: batches would only add noise."""
_FEW, _SETTINGS_FEW_BITS = 3, Settings(learning_rate=3e-3, freeze_norm_at=1.0)
"""With activations of so few bits what batch norm sees changes to the end, and larger steps are needed."""
_CALIBRATION_BYTES = 2**31
"""What the values that calibration keeps at a time may take."""

_CODED = 1e-5
"""Strength of the penalty on bits at first."""

_RECOVERY_STEPS, _MOST_EPOCHS = 2500, 30


class Job:
    """Use as a context manager: the run folder is locked while it is open."""

    def __init__(self, run: Run, task: Task, *, progress: Stages, minutes: float | None = None) -> None:
        self.run, self.progress = run, progress
        self.task, note = split_test(task, run.header["seed"])
        self.notes = [note] if note else []
        self.budget: Budget = run.budget
        self.seed: int = run.header["seed"]
        self.options = Options(**run.header["options"], minutes=minutes)
        self.target = _run_as(run.header["target"], self.options)

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
        """Begin or continue the run in `path`. `spec` and `settings` are what the command line calls the task.

        Raises: TrimtabError of one line for what is wrong with the options, the task (before anything is written), the
                folder, or the network in it.
        """
        if seed < 0:
            raise ConfigError(f"seed: must be 0 or more, got {seed}")
        configured, table = _run_as(target, options), b""
        if options.latency_table is not None:
            table = read_table(options.latency_table)
            timed_elsewhere(table, configured, where=options.latency_table)
            options = options.model_copy(update={"latency_table": hashlib.sha256(table).hexdigest()})
        scorer(options.criterion, Stats(), UnitCriterion, of="channels")
        _check_refinement(options, budget)
        validate(task)
        try:
            run = Run.open(
                path,
                task=spec or FROM_PYTHON + task.name,
                settings=settings or {},
                target=target,
                seed=seed,
                budget=budget,
                options=options.model_dump(exclude={"minutes"}),
            )
        except OSError as error:
            raise RunError(f"{path}: the folder cannot be written ({error.strerror}); give another --run") from error
        if table:
            run.write(LATENCY, table)
        return cls._opened(run, task, progress, options.minutes)

    @classmethod
    def load(cls, path: str | Path, *, progress: Stages) -> Self:
        """The job of an existing run folder; its task is loaded again from where it came."""
        run = Run.load(path)
        try:
            if run.header["task"].startswith(FROM_PYTHON):
                raise RunError(f"{path}: was begun from Python without `spec`; continue it there, with tt.compress")
            task = load_task(run.header["task"], run.header["settings"])
            validate(task)
        except BaseException:
            run.close()
            raise
        return cls._opened(run, task, progress)

    @classmethod
    def _opened(cls, run: Run, task: Task, progress: Stages, minutes: float | None = None) -> Self:
        try:
            job = cls(run, task, progress=progress, minutes=minutes)
            job._check_network()
            _ = job.elsewhere
        except BaseException:
            run.close()
            raise
        return job

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

    def _check_network(self) -> None:
        """Remember the network's structure and weights. Raises: RunError when the folder is of other ones."""
        found = {"structure": self.network.fingerprint, "weights": digest(self.network.state_dict())}
        known = self.run.remember("network", lambda: found)
        for what, value in found.items():
            if known[what] != value:
                raise RunError(
                    f"{self.run.path}: is a run of a network with other {what} (sha256 {known[what][:12]}…, "
                    f"the task's is {value[:12]}…); restore the model, give another --run, or delete the folder"
                )

    @cached_property
    def elsewhere(self) -> Profile | None:
        """The profile with the latency of the machine that the network is for; None where this one times.

        Raises: ConfigError when it is of another network.
        """
        if self.options.latency_table is None:
            return None
        where = str(self.run.file(LATENCY))
        found = timed_elsewhere(self.run.read(LATENCY), self.target, where=where)
        return of_network(found, self.network.fingerprint, where=where)

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

        with self.stage("baseline"):
            return dict(self.run.remember("baseline", lambda: self.judge.baseline(self.network)))

    @cached_property
    def judge(self) -> Judge:
        """What says how a candidate compares with the float network."""
        return Judge(
            self.task,
            self.target,
            budget=self.budget,
            options=self.options,
            seed=self.seed,
            original=self.float_artifact,
            predicted_ms=None if self.elsewhere is None else partial(latency_of, self.elsewhere),
        )

    def on(self, task: Task) -> "Job":
        """This job on other rows of the same task."""
        other = Job(self.run, task, progress=self.progress, minutes=self.options.minutes)
        other.network, other.float_artifact = self.network, self.float_artifact
        other.baseline = {**self.baseline, "metric": other.judge.metric}
        return other

    def within_budget(self) -> bool:
        """Whether the float network keeps every limit already. A limit on the drop alone asks for the smallest."""
        costs = {name: value for name, value in self.baseline.items() if name != "metric"}
        limited = any(limit.quantity != "drop" for limit in self.budget.limits)
        return limited and not Judgement(costs=costs, drop=0.0).broken(self.budget, self.baseline)

    def untouched(self) -> Attempt:
        """The network as it is, as an attempt."""
        self.notes.append("the network keeps every limit as it is: nothing was removed, rounded or trained")
        plan = Plan(fingerprint=self.network.fingerprint, target=self.target.name, seed=self.seed)
        return self.carry_out(Proposal(plan=plan), [], trains=False)

    # ── profile and search ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def profiled(self) -> bool:
        """Whether there is a profile yet."""
        return "profiled" in self.run

    @cached_property
    def profile(self) -> Profile:
        """What every option costs; kept in `profile.json`."""
        name = PROFILE
        if not self.profiled:
            network, baseline = self.network, self.baseline
            with self.run.stage("profile"):
                profile = build_profile(
                    network,
                    self.task,
                    self.target,
                    baseline=baseline,
                    limited={limit.quantity for limit in self.budget.limits},
                    progress=self.progress,
                    seed=self.seed,
                    criterion=self.options.criterion,
                    memo=self.run.remember,
                )
                widest = widest_plan(profile)
                profile = anchored(profile, widest, self.judged(widest).costs)
                if self.budget.limit("latency") is not None:
                    profile = self._with_latency(profile)
                self.run.write(name, profile.to_json())
            self.run.remember("profiled", lambda: True)
        return Profile.from_json(self.run.read(name), where=str(self.run.file(name)))

    def timed_profile(self) -> Profile:
        """The profile with latency, whether or not the budget limits it; from now on in `profile.json` too."""
        if not self.profile.latency_table:
            with self.run.stage("profile"):
                self.profile = self._with_latency(self.profile)
            self.run.write(PROFILE, self.profile.to_json())
        return self.profile

    def _with_latency(self, profile: Profile) -> Profile:
        """Times of all kernels, in float too, and the model of whole networks: another machine's, or timed here."""
        if self.elsewhere is not None:
            return with_latency_of(profile, self.elsewhere)
        profile = with_kernel_times(profile, self.network, self.target, progress=self.progress, memo=self.run.remember)
        profile = profile.model_copy(update={"baseline": {**profile.baseline, "latency": self.float_ms}})
        return fitted(profile, self.timed(random_plans(profile, WHOLE_NETWORKS, seed=self.seed)))

    @cached_property
    def float_ms(self) -> float:
        """Latency of the float network."""
        if "latency" in self.baseline:
            return self.baseline["latency"]
        return float(
            self.run.remember("baseline latency", lambda: self.judge.milliseconds([self.float_artifact], None)[0])
        )

    def timed(self, plans: Sequence[Plan]) -> dict[Plan, float]:
        """Milliseconds of whole networks, as these plans make them; what they compute is of no interest."""

        def compute() -> list[float]:
            artifacts = []
            with self.progress.stage("latency", total=len(plans)) as advance, TemporaryDirectory() as folder:
                for number, plan in enumerate(plans):
                    network = settle(apply(self.network, plan), [self.example])
                    file = Path(folder) / f"{number}{self.target.suffix}"
                    artifacts.append(lower(network, self.target, file))
                    advance()
                return self.judge.milliseconds(artifacts, {"latency": self.float_ms})

        key = hashlib.sha256("".join(plan.to_json() for plan in plans).encode()).hexdigest()
        return dict(zip(plans, self.run.remember(f"timed {key}", compute), strict=True))

    @property
    def file_size(self) -> Quantity:
        """Which of the two files' size counts."""
        return "size" if self.budget.limit("stored_size") is None else "stored_size"

    def sized(self, at_most: float) -> Plan | None:
        """The plan of least predicted loss of at most so many bytes."""
        limit = Limit(quantity=self.file_size, at_most=at_most)
        return search_in_order(self.profile, Budget(limits=(limit,)), self.options.order)

    def ladder(self) -> list[Rung]:
        """Plans of falling size, judged without training: the frontier as it is before recovery."""
        profile = self.profile
        widest = widest_plan(profile)
        full = self.judged(widest).costs[self.file_size]
        rungs = [Rung(fraction=1.0, plan=widest, judgement=self.judged(widest))]
        with self.stage("frontier", total=len(LADDER)) as advance:
            for fraction in LADDER[1:]:
                plan = self.sized(fraction * full)
                if plan is not None and plan != rungs[-1].plan:
                    rungs.append(Rung(fraction=fraction, plan=plan, judgement=self.judged(plan)))
                advance()
        return rungs

    # ── carry a plan out ────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def calibration(self) -> list[Inputs]:
        """Whole training batches, drawn from the seed: `calibration_rows` rows or more, of large inputs fewer."""
        rows = min(self.options.calibration_rows, _CALIBRATION_BYTES // (2 * bytes_a_row(self.network)))
        with seeded(self.seed, 0, self.task.train):
            return [inputs for inputs, _ in first_batches(self.task.train, rows)]

    def settled(self, plan: Plan, original: Network | None = None) -> Network:
        """The plan applied, and what it costs made up for in closed form, from data; nothing trained.

        To the task's network, or to an `original` in its place.
        """
        original = original or self.network
        applied = apply(original, plan, stats_for(plan, original, self.task, seed=self.seed))
        if plan.thins or any(decision.solver != "nearest" for decision in plan.layers):
            return repair(applied, original, plan, self.calibration)
        return settle(applied, self.calibration)

    def judged(self, plan: Plan) -> Judgement:
        """What the plan comes to without training."""

        def compute() -> dict[str, Any]:
            return self.judgement_of(self.settled(plan), plan).model_dump()

        return Judgement(**self.run.remember(f"judged {plan.to_json()}", compute))

    def carry_out(self, proposal: Proposal, tried: list[Attempt], *, trains: bool = True) -> Attempt:
        """Apply, recover, lower and judge; the trained weights are kept in `network-<attempt>.safetensors`."""
        number = len(tried)
        key = _key(number, proposal)

        def compute() -> dict[str, Any]:
            network = self._carried_out(proposal, tried, trains=trains and self.options.recover)
            self.run.write(_file("network", key), save_tensors(network.state_dict()))
            judged = self.judgement_of(network, proposal.plan)
            lesson = self._lesson(network, proposal.plan) if trains and self.options.recover else None
            attempt = Attempt(plan=proposal.plan, judgement=judged, continues=proposal.continues, lesson=lesson)
            return attempt.model_dump(mode="json")

        return self._attempt(key, self.run.remember(key, compute))

    def _lesson(self, network: Network, plan: Plan) -> Lesson | None:
        seen = [inputs for inputs, _ in first_batches(self.task.val, profile_rows(self.network))]
        return lesson_of(network, plan, self.network, seen)

    def _attempt(self, key: str, value: Any) -> Attempt:
        return Attempt.from_json(json.dumps(value), where=f"{self.run.path}: {key.partition('{')[0].strip()}")

    def best(self) -> tuple[int, Attempt]:
        """The attempt that the run delivers, with its number. Raises: RunError when there is none yet."""
        known = [(int(key.split()[1]), self._attempt(key, value)) for key, value in self.run.remembered("attempt ")]
        if not known:
            raise RunError(f"{self.run.path}: nothing was carried out yet; run `trimtab recover` on it first")
        return known[best_of(self.budget, self.baseline, [attempt for _, attempt in known])]

    def trained(self, number: int, attempt: Attempt) -> Network:
        """The network of an attempt, with the weights that it ended with."""
        network = self.settled(attempt.plan)
        network.load_state_dict(load_tensors(self.run.read(_file("network", _key(number, attempt)))))
        network.eval()
        return network

    def lower(self, network: Network, name: str = ARTIFACT) -> Artifact:
        """Write the artifact into the run folder."""
        return lower(network, self.target, self.file(name))

    def prove(self, artifact: Artifact, network: Network) -> Proof:
        """Against the test split, which no choice has seen."""
        assert self.task.test is not None  # split_test made one
        return prove(artifact, network, self.task.test)

    def _carried_out(self, proposal: Proposal, tried: list[Attempt], *, trains: bool) -> Network:
        """The proposal's network: trained on from an earlier one, or from the plan, stage by stage of the order."""
        if proposal.continues is not None:
            network, key = self.trained(proposal.continues, tried[proposal.continues]), _key(len(tried), proposal)
            return self._recovered(network, proposal.plan, key, len(tried)) if trains else network
        stages = stages_of(proposal.plan, self.options.order) if trains else (proposal.plan,)
        original = self.network
        for place, plan in enumerate(stages):
            network = self.settled(_left_of(plan, original), original)
            if trains:
                key = _key(len(tried), Proposal(plan=plan))
                network = self._recovered(network, plan, key, len(tried), of=len(stages))
            original = network if place + 1 == len(stages) else network.dequantize()
        return original

    def _recovered(self, network: Network, plan: Plan, key: str, number: int, of: int = 1) -> Network:
        """Trained, for a round's epochs or, of several stages, its share of them."""
        epochs, steps = max(1, round(self.epochs / of)), batches_in(self.task.train)
        with self.stage("recover", total=epochs * steps) as advance:
            done = 0

            def on_step(now: int, total: int, text: str) -> None:
                nonlocal done
                advance(now - done, text)
                done = now

            return self.train(
                network,
                plan,
                self.task,
                epochs=epochs,
                seed=self.seed + number,
                checkpoint=self.run.file(_file("recover", key)),
                on_step=on_step,
                events=self.run.file("events") / f"{number}-{Path(_file('attempt', key)).stem}"
                if recording()
                else None,
            )

    @cached_property
    def epochs(self) -> int:
        """Of one round of recovery."""
        steps = max(batches_in(self.task.train), 1)
        return self.options.epochs or max(1, min(_MOST_EPOCHS, round(_RECOVERY_STEPS / steps)))

    def train(self, network: Network, plan: Plan, task: Task, **how: Any) -> Network:
        """Recovered on `task`, with the task's network as the teacher, until the time is up at the latest."""
        return recover(
            hold_plan(network, plan) if plan.sparse else network,
            task,
            teacher=self.network,
            settings=_settings_for(plan, network),
            deadline=self._deadline(),
            **how,
        ).network

    def judgement_of(self, network: Network, plan: Plan) -> Judgement:
        """What a network comes to, its artifact written."""
        artifact = lower(network, self.target, self.file(CANDIDATE))
        return self.judge.judgement(artifact, network, plan, self.baseline)

    def _deadline(self) -> float | None:
        if self.options.minutes is None:
            return None
        return time.monotonic() + 60 * self.options.minutes - self.spent()

    def spent(self) -> float:
        """Seconds spent on this run so far, over all attempts."""
        return sum(self.run.seconds().values())

    def out_of_time(self, share: float = 1.0) -> bool:
        """Whether this share of `minutes` is used up."""
        return self.options.minutes is not None and self.spent() >= share * 60 * self.options.minutes


def _check_refinement(options: Options, budget: Budget) -> None:
    if options.refine == "none":
        if options.folds is not None:
            raise ConfigError(f"folds {options.folds}: plans are judged on folds where they are refined; add --refine")
        return
    SAMPLERS.load(options.refine)
    if not any(limit.quantity != "drop" for limit in budget.limits):
        raise ConfigError(
            f"refine {options.refine!r}: plans are refined under limits on costs, got {budget}; give one, such as "
            "--size 20%, or leave --refine out"
        )


def _run_as(target: str, options: Options) -> Target:
    """A target with the batch and threads that the network is run with."""
    return target_of(target).model_copy(update={"batch": options.batch, "threads": options.threads})


def _key(number: int, tried: Proposal | Attempt) -> str:
    """Names an attempt: its place, its plan, and what it began from."""
    return f"attempt {number} {Proposal(plan=tried.plan, continues=tried.continues).to_json()}"


def _settings_for(plan: Plan, network: Network) -> Settings:
    """Codes that were found by rate and distortion are held to the bits that they take."""
    if any(decision.activation and decision.activation.bits <= _FEW for decision in plan.layers):
        settings = _SETTINGS_FEW_BITS
    else:
        settings = _SETTINGS if plan.thins else _SETTINGS_UNCUT
    if not any(decision.price for decision in plan.layers):
        return settings
    penalty = Penalty(kind="entropy", strength=_CODED, growth=2.0, until=Entropy(network).negligible())
    return settings.model_copy(update={"penalty": penalty})


def _left_of(plan: Plan, network: Network) -> Plan:
    """What is left to do of a plan where its cuts are made already."""
    if network.fingerprint == plan.fingerprint:
        return plan
    return plan.model_copy(update={"fingerprint": network.fingerprint, "groups": (), "branches": ()})


def _file(kind: str, key: str) -> str:
    return f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:10]}.safetensors"
