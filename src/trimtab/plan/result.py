"""What came out of a run: measurements, the proof, and the answer to the budget."""

from typing import Annotated, Literal

from pydantic import Field

from trimtab.plan.behaviour import Behaviour
from trimtab.plan.budget import Budget
from trimtab.plan.hotspots import Hotspots
from trimtab.plan.plan import Plan
from trimtab.plan.record import Record


class Spread(Record):
    """Quartiles of repeated timings, in milliseconds."""

    q25_ms: float
    q75_ms: float
    runs: int


class Measurement(Record):
    """One network or artifact, measured. `None` where a quantity was not asked for.

    `zeros`: the share (0..1) of exact zeros among the weights that stayed.
    """

    metric: float | None = None
    file_bytes: int | None = None
    stored_bytes: int | None = None
    macs: int | None = None
    bops: int | None = None
    zeros: float | None = None
    latency_ms: float | None = None
    peak_bytes: int | None = None
    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    spread: Spread | None = None


class Proof(Record):
    """The artifact, executed in its runtime and compared with the `simulation` that matches that runtime.

    `agreement` (fraction of equal predictions, 0..1), `identical_rows` (fraction of rows, 0..1, where every output is
    equal bit for bit) and `max_abs_diff` compare with it. `training_agreement` compares predictions with the network as
    it was trained: fake-quantized, in float, batch norm folded and biases rounded.
    """

    executed_on: str
    integer_ops: dict[str, int]
    float_ops: dict[str, int]
    fallbacks: tuple[str, ...] = ()
    simulation: Literal["integer", "float"] = "integer"
    max_abs_diff: float
    agreement: float
    identical_rows: float
    training_agreement: float = 1.0
    rows: int


class StoredPart(Record):
    """About how many bytes of an entropy-coded file go where; `layer` is empty for what belongs to none."""

    layer: str
    kind: Literal["values", "positions", "scales", "biases", "other", "header"]
    bytes: float


class Stored(Record):
    """The entropy-coded file of the network, and the metric (on the test split) of what is unpacked from it."""

    path: str
    bytes: int
    metric: float
    parts: tuple[StoredPart, ...]


class Drop(Record):
    """How much worse the compressed network is, in the metric's own unit, with its paired-bootstrap interval.

    With a `confidence` (0..1) that was asked for, `bound` is what the drop is at most, by that share of the resamples.
    """

    value: float
    ci95: tuple[float, float]
    confidence: float | None = None
    bound: float | None = None

    @property
    def limited(self) -> float:
        """What a limit is held against: the bound where there is one, else the value."""
        return self.value if self.bound is None else self.bound


class FrontierPoint(Record):
    """One plan that was evaluated: what it costs, and what it loses on the validation split."""

    costs: dict[str, float]
    drop: float
    recovered: bool
    label: str = ""


class Result(Record):
    """The answer. `met` says whether the artifact, as measured, keeps every limit of the budget."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    trimtab: str
    task: str
    target: str
    seed: int
    budget: Budget
    met: bool
    why: str
    baseline: Measurement
    compressed: Measurement
    drop: Drop
    plan: Plan
    proof: Proof
    artifact: str
    stored: Stored | None = None
    behaviour: Behaviour | None = None
    seconds: dict[str, float]
    hotspots: Hotspots | None = None
    frontier: tuple[FrontierPoint, ...] = ()
    notes: tuple[str, ...] = ()

    model_config = Record.model_config | {"serialize_by_alias": True}
