"""Why is it not faster? What a run's time goes to besides integer arithmetic, each with what can be done about it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trimtab.graph import Network
from trimtab.measure.machine import cpu
from trimtab.plan import Cpu, Finding, Hotspots, OperatorTime, Timeline
from trimtab.tasks.task import Inputs

SMALL = 0.03
"""A share of the time that is not worth a sentence."""

_NOT_FASTER = 0.9  # of the float network's time
_RESOLUTION_MS = 0.005  # profilers count microseconds
_NEEDED = 2  # conversions: of the input and of the output
_MANY = 4  # names in a sentence

_FAMILIES = {
    "grouped convolution": r"conv.*\(grouped\)",
    "transposed convolution": r"convtranspose|deconv",
    "conversion": r"quantizelinear|cast|convert|reorder",
    "convolution": r"conv",
    "recurrent": r"lstm|gru|rnn",
    "linear": r"gemm|matmul|linear|fullyconnected|addmm|attention|\bmm\b",
    "average": r"averagepool|reducemean|avg_pool|\bmean\b",
    "add": r"add\b",
    "multiply": r"mul\b|multiply",
    "normalization": r"norm",
    "softmax": r"softmax",
    "activation": r"relu|sigmoid|swish|silu|gelu|tanh|clip|erf",
}
"""Names of operators in any runtime, lower case; the first that fits."""


def hotspots(
    artifact: Any,
    inputs: Inputs,
    *,
    before: Any = None,
    network: Network | None = None,
    fallbacks: Sequence[str] = (),
    seconds: float = 1.0,
) -> Hotspots | None:
    """Where an artifact spends a run on these inputs, beside its float original `before`; `network` tells the widths.

    `fallbacks` are those of the proof or of `Backend.kernels`: "layer: operator runs in float". None where the runtime
    has no profiler that can be read.
    """
    after = artifact.timeline(inputs, seconds=seconds)
    if after is None:
        return None
    found = Hotspots(
        before=before.timeline(inputs, seconds=seconds) if before is not None else None,
        after=after,
        cpu=cpu(),
        threads=artifact.threads,
    )
    widths = _odd_widths(network, artifact.target.channel_multiple) if network is not None else {}
    return found.model_copy(update={"findings": tuple(explain(found, fallbacks, widths))})


def family(operator: str) -> str:
    """`QLinearConv`, `FusedConv` and `Convolution` are all a convolution; what is not known keeps its own name."""
    name = operator.lower().removeprefix("qlinear")
    return next((kind for kind, pattern in _FAMILIES.items() if re.search(pattern, name)), operator)


def by_family(timeline: Timeline | None) -> dict[str, float]:
    """Milliseconds by family, the longest first."""
    sums: dict[str, float] = {}
    for operator in timeline.operators if timeline else ():
        kind = "moving data" if operator.kind == "move" else family(operator.operator)
        sums[kind] = sums.get(kind, 0.0) + operator.milliseconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def explain(found: Hotspots, fallbacks: Sequence[str], widths: Mapping[str, str]) -> Iterator[Finding]:
    """One finding for each thing that costs time; `widths` says of a layer what is odd about its width."""
    total = max(sum(operator.milliseconds for operator in found.after.operators), 1e-9)
    yield from _fallbacks(found.after, fallbacks, total)
    yield from _conversions(found.after, total)
    yield from _not_faster(found, total)
    yield from _widths(found.after, widths, total)
    yield from _instructions(found.cpu)
    yield from _threads(found)


def _fallbacks(after: Timeline, lines: Sequence[str], total: float) -> Iterator[Finding]:
    """One finding an operator type that computes in float. A line of the proof: `layer: operator runs in float`."""
    where: dict[str, list[str]] = {}
    for line in lines:
        place, _, said = line.rpartition(": ")
        where.setdefault(said.split(" ")[0], []).append(place)
    times = _sum_by(after.operators, "float")
    for operator in sorted({*times, *where}, key=lambda name: -times.get(name, 0.0)):
        share = times.get(operator, 0.0) / total
        if share < SMALL:
            continue
        places = _some(where.get(operator, ()))
        yield Finding(
            about="fallback",
            share=share,
            says=f"{operator} runs in float and takes {share:.0%} of the time{f': {places}' if places else ''}",
            remedy=_instead_of(operator),
        )


def _instead_of(operator: str) -> str:
    match family(operator):
        case "activation":
            return "replace it by ReLU or hardtanh, which an integer kernel takes in for nothing"
        case "convolution" | "grouped convolution" | "linear" | "recurrent":
            return "store this layer's weights and activations in 8 bits, or see why the target has no kernel for it"
        case _:
            return "the target has no integer kernel for it: replace it, or leave its neighbours in float as well"


def _conversions(after: Timeline, total: float) -> Iterator[Finding]:
    operators = [operator for operator in after.operators if operator.kind == "conversion"]
    share = sum(operator.milliseconds for operator in operators) / total
    if share >= SMALL and sum(operator.calls for operator in operators) > _NEEDED:
        calls: dict[str, int] = {}
        for operator in operators:
            calls[operator.operator] = calls.get(operator.operator, 0) + operator.calls
        counted = ", ".join(f"{count} {name}" for name, count in calls.items())
        yield Finding(
            about="conversion",
            share=share,
            says=f"conversions between formats take {share:.0%} of the time: {counted}",
            remedy="each operator in float between integer ones costs a pair: remove those above, "
            "or keep short stretches between them in float whole",
        )


def _not_faster(found: Hotspots, total: float) -> Iterator[Finding]:
    before, after = by_family(found.before), by_family(found.after)
    for kind, spent in after.items():
        slower = kind in before and spent > _NOT_FASTER * before[kind] and spent > _RESOLUTION_MS
        if slower and spent / total >= SMALL and kind not in {"moving data", "conversion"}:
            yield Finding(
                about="not faster",
                share=spent / total,
                says=f"{kind}: {spent:.3g} ms, in float {before[kind]:.3g} ms, so that few bits gain nothing there",
                remedy="keep it in float, which is exacter, or remove channels or whole blocks of it",
            )


def _widths(after: Timeline, widths: Mapping[str, str], total: float) -> Iterator[Finding]:
    if widths:
        share = sum(operator.milliseconds for operator in after.operators if operator.layer in widths) / total
        yield Finding(
            about="width",
            share=share,
            says=f"widths off the kernel's multiple, in layers with {share:.0%} of the time: {_some(widths.values())}",
            remedy="cut them to the next multiple below: the channels above it cost as much as a full step",
        )


def _odd_widths(network: Network, multiple: int) -> dict[str, str]:
    """Layers that make channels whose number may be changed and is not a multiple, and what it is."""
    layers = {layer.weight: layer.name for layer in network.layers}
    odd = {}
    for group in network.groups:
        channels = group.width * group.unit_size
        if channels % multiple:
            for member in group.members:
                if member.role == "out" and member.parameter in layers:
                    name = layers[member.parameter]
                    odd[name] = f"{name} has {channels} channels, not a multiple of {multiple}"
    return odd


def _instructions(machine: Cpu) -> Iterator[Finding]:
    if machine.integer_dots is not None and not machine.integer_dots:
        yield Finding(
            about="instructions",
            says=f"{machine.name} has no instruction for sums of int8 products (VNNI, AMX, ARM's dot product)",
            remedy="measure on the CPU that it will run on: int8 gains most where there is one",
        )


def _threads(found: Hotspots) -> Iterator[Finding]:
    threads, cores = found.threads, found.cpu.cores
    if threads < cores:
        yield Finding(
            about="threads",
            says=f"{threads} of {cores} cores {'is' if threads == 1 else 'are'} used",
            remedy=f"give the runtime {cores} threads if a single answer is waited for; one thread each serves more "
            "requests at once",
        )
    elif threads > cores:
        yield Finding(
            about="threads",
            says=f"{threads} threads share {cores} {'core' if cores == 1 else 'cores'}",
            remedy=f"give the runtime at most {cores}: threads that wait for each other cost time",
        )


def _sum_by(operators: Iterable[OperatorTime], kind: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for operator in operators:
        if operator.kind == kind:
            name = operator.operator.partition(" ")[0]
            sums[name] = sums.get(name, 0.0) + operator.milliseconds
    return sums


def _some(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    listed = list(dict.fromkeys(names))
    more = f" and {len(listed) - _MANY} more" if len(listed) > _MANY else ""
    return ", ".join(listed[:_MANY]) + more
