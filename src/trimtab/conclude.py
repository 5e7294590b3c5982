"""The end of a run: the artifact is proved and measured on the test split, and the answer written down."""

import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from trimtab.graph import Network
from trimtab.job import FROM_PYTHON, LATENCY, Job
from trimtab.judge import stored_beside
from trimtab.lower import Artifact
from trimtab.measure import (
    Evaluation,
    Timing,
    artifact_peak,
    bootstrap_drop,
    bops,
    drop_of,
    evaluate,
    first_rows,
    hotspots,
    latencies,
    macs,
    zero_share,
)
from trimtab.plan import (
    Behaviour,
    Budget,
    Drop,
    FrontierPoint,
    Hotspots,
    Measurement,
    Options,
    Plan,
    Proof,
    Result,
    Stored,
)
from trimtab.report import (
    LayerRow,
    ReportDetails,
    attention,
    filters,
    histograms,
    sensitivity_of,
    value_of,
    write_report,
)
from trimtab.report.behaviour import CHECKS, Compared, behaviour, changed
from trimtab.search import Attempt, Rung, contradictions, nearest
from trimtab.store import load, pack
from trimtab.tasks import Inputs, Task

_LATENCY_SECONDS = 3.0
_STEADY, _PATIENCE = 0.1, (1, 2, 4)
"""Where latency is limited: timings go on for so many times as long, until quartiles lie within this share."""
_UNITS = {"size": "B", "stored_size": "B", "memory": "B", "latency": "ms"}
_NOT_ON_THE_COMMAND_LINE = {"recover", "rounds", "calibration_rows"}
"""Options without a word of their own: the first is `--no-recover`, the others are Python's."""
_DISAGREE = 0.02  # of the rows, or one row: outputs that lie between two classes may fall to either


def conclude(job: Job, rungs: Sequence[Rung], tried: Sequence[Attempt], chosen: int) -> Result:
    """Lower, prove and measure the chosen attempt; write `model`, `plan.json`, `result.json`, `report.html`."""
    plan = tried[chosen].plan
    network = job.trained(chosen, tried[chosen])
    with job.stage("lower"):
        artifact = job.lower(network)
    with job.stage("prove"):
        proof = job.prove(artifact, network)
    with job.stage("measure"):
        stored = _stored(job, artifact, network)
        evaluated = _evaluated(job, artifact)
        baseline, compressed, drop = _measured(job, artifact, network, plan, evaluated)
        if stored is not None:
            compressed = compressed.model_copy(update={"stored_bytes": stored.bytes})
        where = None if job.elsewhere is not None else _hotspots(job, artifact, network, proof)
    compared = Compared(
        task=job.task,
        before=job.float_artifact,
        after=artifact,
        original=job.network,
        trained=network,
        evaluated=evaluated,
        seed=job.seed,
    )
    with job.stage("behaviour", len(CHECKS)) as advance:
        found = behaviour(compared, job.budget.require, advance)
    broken = broken_limits(job.budget, baseline, compressed, drop) + disagreement(proof) + unmet(job.budget, found)
    if stored is not None:
        broken += spoilt(job.budget, job.task, baseline, stored)
    result = Result(
        trimtab=version("trimtab"),
        task=job.task.name,
        target=job.target.name,
        seed=job.seed,
        budget=job.budget,
        met=not broken,
        why=_why(job, broken, rungs, tried),
        baseline=baseline,
        compressed=compressed,
        drop=drop,
        plan=plan,
        proof=proof,
        artifact=str(artifact.path),
        stored=stored,
        behaviour=found,
        seconds={**job.run.seconds(), "total": job.spent()},
        hotspots=where,
        frontier=(*(rung.as_point() for rung in rungs), *_points(job, tried)),
        notes=tuple(job.notes),
    )
    job.run.write("plan.json", plan.to_json())
    job.run.write("result.json", result.to_json())
    details = _details(job, network, compared, layer_rows(job.network, network, plan, proof))
    job.run.write("details.json", details.to_json())
    write_report(result, details, job.run.file("report.html"))
    return result


def _details(job: Job, network: Network, compared: Compared, layers: tuple[LayerRow, ...]) -> ReportDetails:
    """What the report shows beside the result; the profile only where the run needed one."""
    plain = network.dequantize()
    return ReportDetails(
        layers=layers,
        command=_command(job),
        changed=changed(compared),
        histograms=histograms(job.network, plain),
        sensitivity=sensitivity_of(job.profile) if job.profiled else (),
        filters=filters(job.network, plain),
        attention=attention(job.network, network, first_rows(job.task.val, 1)),
    )


def _hotspots(job: Job, artifact: Artifact, network: Network, proof: Proof) -> Hotspots | None:
    return hotspots(
        artifact,
        first_rows(job.task.val, job.target.batch),
        before=job.float_artifact,
        network=network,
        fallbacks=proof.fallbacks,
        seconds=_LATENCY_SECONDS / 3,
    )


def _stored(job: Job, artifact: Artifact, network: Network) -> Stored | None:
    """The entropy-coded file, where it is limited, and what comes out of it again."""
    if job.budget.limit("stored_size") is None:
        return None
    packed = pack(network, stored_beside(artifact))
    assert job.task.test is not None
    metric = evaluate(load(packed.path), job.task.test, job.task.metric).value
    return Stored(path=str(packed.path), bytes=packed.bytes, metric=metric, parts=packed.parts)


def _evaluated(job: Job, artifact: Artifact) -> tuple[Evaluation, Evaluation]:
    """What the float file and the artifact put out on the test split: the one look at it."""
    assert job.task.test is not None
    before, after = (evaluate(file, job.task.test, job.task.metric) for file in (job.float_artifact, artifact))
    return before, after


def _measured(
    job: Job, artifact: Artifact, network: Network, plan: Plan, evaluated: tuple[Evaluation, Evaluation]
) -> tuple[Measurement, Measurement, Drop]:
    test, metric, target = job.task.test, job.task.metric, job.target
    assert test is not None
    before, after = evaluated
    both = {"before": job.float_artifact, "after": artifact}
    predicted_ms = job.judge.predicted_ms
    timed = _timed(job, both, first_rows(test, target.batch)) if predicted_ms is None else {}
    if predicted_ms is not None:
        job.notes.append(f"latency: predicted from {job.run.file(LATENCY)}, not measured here")

    def measurement(name: str, counted: Network, decided: Plan | None, value: float) -> Measurement:
        return Measurement(
            metric=value,
            file_bytes=both[name].file_bytes,
            stored_bytes=int(job.baseline.get("stored_size", 0)) or None if decided is None else None,
            macs=macs(counted),
            bops=bops(counted, decided),
            zeros=zero_share(counted),
            latency_ms=timed[name].median_ms if predicted_ms is None else predicted_ms(decided),
            peak_bytes=artifact_peak(both[name], batch=target.batch, threads=target.threads),
            threads=target.threads,
            batch=target.batch,
            spread=timed[name].spread if timed else None,
        )

    return (
        measurement("before", job.network, None, before.value),
        measurement("after", network, plan, after.value),
        bootstrap_drop(before, after, metric, seed=job.seed, confidence=job.options.confidence),
    )


def _timed(job: Job, both: Mapping[str, Artifact], inputs: Inputs) -> dict[str, Timing]:
    """Latencies, in turn; where they are limited and this machine is not steady, of more repeats, with a note."""
    limited = job.budget.limit("latency") is not None
    for longer in _PATIENCE if limited else _PATIENCE[:1]:
        timed = latencies(both, inputs, threads=job.target.threads, seconds=longer * _LATENCY_SECONDS)
        noise = max(timing.noise for timing in timed.values())
        if noise <= _STEADY:
            return timed
    if limited:
        job.notes.append(
            f"latency: the quartiles of {timed['after'].runs} runs lie {100 * noise:.0f} % apart (steady: at most "
            f"{100 * _STEADY:.0f} %); measure again where nothing else runs"
        )
    return timed


def broken_limits(budget: Budget, baseline: Measurement, compressed: Measurement, drop: Drop) -> list[str]:
    """One phrase for every limit that the measured artifact does not keep."""
    broken = []
    for limit in budget.limits:
        is_drop = limit.quantity == "drop"
        measured = drop.limited if is_drop else value_of(limit.quantity, compressed)
        before = 0.0 if is_drop else value_of(limit.quantity, baseline) or 0.0
        if measured is None:
            broken.append(f"{limit.quantity} could not be measured")
        elif not limit.allows(measured, before):
            bound = f" with {100 * drop.confidence:g} % confidence" if is_drop and drop.confidence else ""
            broken.append(f"{limit.quantity} is {measured:.6g}{bound}, the limit {limit.bound(before):.6g}")
    return broken


def unmet(budget: Budget, found: Behaviour) -> list[str]:
    """One phrase for every check that is required and does not hold, or could not be made."""
    broken = []
    for required in budget.require:
        check = found.check(required.check)
        if check is None:
            broken.append(f"{required.check} is required, but was not checked: {found.left_out[required.check]}")
        elif not check.holds:
            broken.append(
                f"{check.name} is {check.measured:.4g}, at most {check.at_most:.4g} is required: {check.verdict}"
            )
    return broken


def spoilt(budget: Budget, task: Task, baseline: Measurement, stored: Stored) -> list[str]:
    """One phrase when what is unpacked, whose scales are rounded, loses more than it may."""
    limit = budget.limit("drop")
    assert baseline.metric is not None
    drop = drop_of(baseline.metric, stored.metric, task.metric)
    if limit is None or limit.allows(drop):
        return []
    return [f"drop of what is unpacked from {stored.path} is {drop:.6g}, the limit {limit.bound(0.0):.6g}"]


def disagreement(proof: Proof) -> list[str]:
    """One phrase when the artifact, as executed, predicts something else than the simulation of its runtime."""
    if round((1 - proof.agreement) * proof.rows) <= max(1, _DISAGREE * proof.rows):
        return []
    return [
        f"the artifact does not compute what was simulated: {100 * proof.agreement:.1f} % of {proof.rows} predictions "
        f"on {proof.executed_on} agree, {100 * (1 - _DISAGREE):.0f} % must"
    ]


def _why(job: Job, broken: Sequence[str], rungs: Sequence[Rung], tried: Sequence[Attempt]) -> str:
    if not broken:
        return "every limit is kept, as measured on the test split and on the file"
    judged = [*(rung.judgement for rung in rungs), *(attempt.judgement for attempt in tried)]
    excluded = contradictions(job.profile, job.budget, job.baseline) if rungs else []
    sides = nearest(job.budget, job.baseline, judged)
    return "; ".join([*broken, *excluded, *([f"nearest on val: {'; '.join(sides)}"] if sides else [])])


def _points(job: Job, tried: Sequence[Attempt]) -> list[FrontierPoint]:
    judged = [attempt.judgement for attempt in tried]
    return [
        FrontierPoint(costs=j.costs, drop=j.drop, recovered=job.options.recover, label=f"attempt {number}")
        for number, j in enumerate(judged, start=1)
    ]


def layer_rows(before: Network, after: Network, plan: Plan, proof: Proof) -> tuple[LayerRow, ...]:
    """The plan layer by layer, as it came out; a layer of a removed branch has width 0."""
    decisions = {decision.layer: decision for decision in plan.layers}
    kept = {layer.weight: after.module.get_parameter(layer.weight) for layer in after.layers}
    rows = []
    for layer in before.layers:
        if layer.name.partition("#")[1]:
            continue
        decision = decisions.get(layer.name)
        weight, activation = (decision.weight, decision.activation) if decision else (None, None)
        bits = weight.bits if weight else 32
        left = kept.get(layer.weight)
        left_in_float = activation is None or any(line.startswith(f"{layer.name}:") for line in proof.fallbacks)
        rows.append(
            LayerRow(
                name=layer.name,
                operator=layer.operator,
                width_before=before.module.get_parameter(layer.weight).shape[0],
                width_after=0 if left is None else left.shape[0],
                weight_bits=bits,
                activation_bits=activation.bits if activation else 32,
                bytes_before=4 * before.module.get_parameter(layer.weight).numel(),
                bytes=0 if left is None else left.numel() * bits // 8,
                kernel="float" if left_in_float else "integer",
                zeros=0.0 if left is None else 1 - int(left.detach().count_nonzero()) / left.numel(),
            )
        )
    return tuple(rows)


def _command(job: Job) -> str:
    """What gives this result again."""
    header, options = job.run.header, job.options
    if options.latency_table is not None:
        options = options.model_copy(update={"latency_table": str(job.run.file(LATENCY))})
    if header["task"].startswith(FROM_PYTHON):
        return f"tt.compress(task, budget=tt.{job.budget!r}, seed={job.seed}, options=tt.{options!r})"
    words = ["trimtab", "compress", header["task"]]
    for key, value in header["settings"].items():
        words += ["--set", f"{key}={value}"]
    for limit in job.budget.limits:
        words += [
            f"--{limit.quantity.replace('_', '-')}",
            f"{limit.at_most!r}{'x' if limit.relative else _UNITS.get(limit.quantity, '')}",
        ]
    for name in Options.model_fields:
        if name not in _NOT_ON_THE_COMMAND_LINE and getattr(options, name) != Options.model_fields[name].default:
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    words += [] if options.recover else ["--no-recover"]
    for required in job.budget.require:
        words += ["--require", str(required)]
    return shlex.join([*words, "--target", job.target.name, "--seed", str(job.seed)])
