"""A plan in a training loop of the user's own: what is removed stays removed, whatever the optimizer does.

`prepare` gives a module to train, whose `step()` is called after every optimizer step; `finalize` gives the network.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from trimtab.apply import apply
from trimtab.errors import ConfigError, PlanError
from trimtab.graph import Network, capture, cut
from trimtab.graph.network import move
from trimtab.plan import Plan, Schedule, Sparsity, Static
from trimtab.prune.pruner import Pruner, make_pruner
from trimtab.prune.schedules.goals import goals
from trimtab.quant import ActivationFakeQuantize, calibrate
from trimtab.stats import Stats
from trimtab.tasks.task import Inputs

_PART = "pruner."
"""In a state dict: the prefix of what the pruner must know to go on."""


class Prepared(nn.Module):
    """A network in training, with what its plan removes held at zero. Made by `prepare` and `hold_plan`.

    It is called as the network is, and its parameters are the network's, for any optimizer. Call `step()` after every
    optimizer step, while the gradients are still there. The state dict has the weights and what the pruner must know;
    it may be loaded before `begin` or after it.
    `kept`: units of groups that `finalize` will cut; until then the others are zero. `pruner` is None before `begin`.
    """

    accepts_loss_kwargs = False  # what Hugging Face's Trainer asks before it passes arguments of its own

    def __init__(self, network: Network, plan: Plan, schedule: Schedule, kept: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.network, self.plan, self.schedule, self.kept = network, plan, schedule, dict(kept)
        self.module = network.module
        self.training = network.training
        self.pruner: Pruner | None = None
        self._steps = 1
        self._loaded: dict[str, Tensor] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)

    def begin(self, steps: int) -> Pruner:
        """Step 0 of a training of `steps` optimizer steps, or of the rest of it after a state was loaded.

        Raises: ConfigError when it has begun with another number, or when there are too few for the schedule.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"prepare: steps is the number of optimizer steps, at least 1, got {steps!r}")
        if self.pruner is None:
            self._steps = steps
            self.pruner = self._new_pruner()
            if self._loaded:
                self.pruner.restore(self._loaded)
                self._loaded = {}
            else:
                self.pruner.begin()
        elif steps != self._steps and not isinstance(self.schedule, Static):
            raise ConfigError(
                f"prepare: training was begun for {self._steps} steps, now it is to take {steps}; "
                "give prepare this number, or none where who trains begins it"
            )
        return self.pruner

    def step(self) -> None:
        """Once after every optimizer step, before the gradients are cleared: what is removed is zero again.

        Raises: ConfigError before `begin`, and when the schedule needs a gradient that is not there.
        """
        _begun(self, "step").step()

    @property
    def level(self) -> float:
        """The share of the final sparsity that is in force, 0 to 1."""
        return 0.0 if self.pruner is None else self.pruner.level

    @property
    def finished(self) -> bool:
        """Whether the final sparsity is reached, so that `finalize` may follow."""
        return self.pruner is not None and self.pruner.finished

    def train(self, mode: bool = True) -> Self:
        """Switch batch norm and dropout of the graph."""
        self.network.train(mode)
        self.training = mode
        return self

    def clone(self) -> "Prepared":
        """A copy that shares nothing and has come as far."""
        other = Prepared(self.network.clone(), self.plan, self.schedule, self.kept)
        other._steps, other._loaded = self._steps, dict(self._loaded)
        if self.pruner is not None:
            other.pruner = other._new_pruner()
            other.pruner.restore(self.pruner.state())
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> "Prepared":
        return self.clone()

    def _new_pruner(self) -> Pruner:
        return make_pruner(
            self.network,
            _sparsity(self.plan),
            self.kept,
            self.schedule,
            self._steps,
            self.plan.seed,
            _criterion(self.plan, self.schedule),
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `cuda`, `double` … call. A pruner stays where it was made, so another takes its place."""
        super()._apply(fn, recurse)
        self.network.example = pytree.tree_map(lambda leaf: fn(leaf).cpu(), self.network.example)
        self.network.refresh()
        if self.pruner is not None:
            state = self.pruner.state()
            self.pruner = self._new_pruner()
            self.pruner.restore(state)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        state = self._loaded if self.pruner is None else self.pruner.state()
        destination.update({f"{prefix}{_PART}{name}": tensor for name, tensor in state.items()})

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], *args: Any
    ) -> None:
        names = [name for name in state_dict if name.startswith(prefix + _PART)]
        state = {name.removeprefix(prefix + _PART): state_dict.pop(name).clone() for name in names}
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *args)
        if self.pruner is None:
            self._loaded = state
        elif state:
            self.pruner.restore(state)
        else:
            missing.append(prefix + _PART + "*")


def prepare(
    model: nn.Module | Network,
    example: Inputs | None,
    plan: Plan,
    *,
    schedule: Schedule | None = None,
    steps: int | None = None,
    stats: Stats | None = None,
    calibration: Iterable[Inputs] | None = None,
) -> Prepared:
    """A module to train by the plan, in training mode; `model` stays as it is.

    `Static` (default): the plan is applied at once. Another schedule removes branches at once, and takes weights and
    units of channel groups to zero while the network trains, fake-quantized already; it needs `steps`, the number of
    optimizer steps of the whole training, here or in `begin`.
    `example` captures a model (None for a Network). `stats` of the network are for criteria that need them; only
    `Static` takes these. Activation ranges are fitted to the inputs in `calibration`, by default to the example.
    Raises: CaptureError, PlanError and ConfigError as `capture`, `apply` and the schedule do.
    """
    schedule = schedule or Static()
    if not isinstance(schedule, _SCHEDULES):
        known = ", ".join(f"{kind.__name__}()" for kind in _SCHEDULES)
        raise ConfigError(f"prepare: schedule is one of {known}, got {schedule!r}")
    network = _captured(model, example)
    batches = [network.example if example is None else example] if calibration is None else calibration
    if isinstance(schedule, Static):
        prepared = Prepared(_calibrated(apply(network, plan, stats), batches), plan, schedule, {})
    else:
        whole = apply(network, _without_pruning(plan))
        kept = _groups_left(network, whole, plan)
        goals(whole, _sparsity(plan), kept)  # what cannot be reached is refused now, however late it begins
        _criterion(plan, schedule)
        prepared = Prepared(_calibrated(whole, batches), plan, schedule, kept)
    if isinstance(schedule, Static) or steps is not None:
        prepared.begin(1 if steps is None else steps)
    return prepared.train()


def hold_plan(network: Network, plan: Plan) -> Prepared:
    """A copy of a network that `apply` made from this plan, whose zeros stay zero while it trains.

    Raises: PlanError when the network is not of this plan, or weights that the plan removes are not zero in it.
    """
    widths = {group.name: group.width for group in network.groups}
    for decision in plan.groups:
        if widths.get(decision.group, len(decision.kept)) != len(decision.kept):
            raise PlanError(
                f"plan: group {decision.group!r} has {widths[decision.group]} units in this network, the plan keeps "
                f"{len(decision.kept)}; give the network that apply made from this plan"
            )
    prepared = Prepared(network.clone(), plan, Static(), {})
    before = dict(network.named_parameters())
    for name in prepared.begin(1).masks:
        if not torch.equal(before[name], prepared.network.module.get_parameter(name)):
            raise PlanError(
                f"plan: {name} has fewer zeros than the plan removes; give the network that apply made from this plan"
            )
    return prepared


def finalize(prepared: Prepared) -> Network:
    """The trained network in eval mode: groups cut, removed weights zero, fake-quantization with what it has learned.

    It equals the prepared one in eval mode, up to rounding, where the plan's cuts are exact (`verify`). The prepared
    one stays as it is.
    Raises: ConfigError before the schedule has come to its end, and when weights that are removed are not zero.
    """
    if not isinstance(prepared, Prepared):
        raise ConfigError(
            f"finalize: takes what prepare made, got {type(prepared).__name__}; of a wrapper (DistributedDataParallel, "
            "a LightningModule) give the Prepared inside"
        )
    pruner = _begun(prepared, "finalize")
    if not pruner.finished:
        raise ConfigError(
            f"finalize: {pruner.level:.0%} of the plan's sparsity is in force, of {prepared._steps} steps; call step() "
            "after every optimizer step until `finished` is True"
        )
    for name, keep in pruner.masks.items():
        moved = int(torch.count_nonzero(prepared.module.get_parameter(name).detach()[~keep]))
        if moved:
            raise ConfigError(
                f"finalize: {moved} removed weights of {name} are not zero; call step() after every optimizer step, "
                "the last one too"
            )
    return cut(prepared.network, prepared.kept).eval()


_SCHEDULES = get_args(get_args(Schedule)[0])


def _captured(model: nn.Module | Network, example: Inputs | None) -> Network:
    if isinstance(model, Network):
        return model
    if not isinstance(model, nn.Module):
        raise ConfigError(f"prepare: model is a torch.nn.Module or a Network, got {type(model).__name__}")
    if example is None:
        raise ConfigError("prepare: a module is captured with an example of its inputs; give example")
    return capture(model, example)


def _calibrated(network: Network, batches: Iterable[Inputs]) -> Network:
    """The network, its activation ranges fitted in place."""
    if any(isinstance(module, ActivationFakeQuantize) for module in network.module.modules()):
        network.eval()
        calibrate(network.module, (move(batch, network.device) for batch in batches))
    return network


def _without_pruning(plan: Plan) -> Plan:
    """The plan's branches and storage only."""
    layers = tuple(decision.model_copy(update={"sparsity": None}) for decision in plan.layers)
    return plan.model_copy(update={"groups": (), "layers": layers})


def _groups_left(network: Network, whole: Network, plan: Plan) -> dict[str, tuple[int, ...]]:
    """Decisions on the groups of `whole`, the network without the plan's branches; those inside of them are void."""
    left = {group.name: group for group in whole.groups}
    parameters = dict(whole.named_parameters())
    kept = {}
    for decision in plan.groups:
        members = {member.parameter for member in network.group(decision.group).members}
        there = left.get(decision.group)
        if there is not None and {member.parameter for member in there.members} <= members:
            kept[decision.group] = decision.kept
        elif any(name in parameters for name in members):
            raise PlanError(
                f"plan: without the removed branches there is no group {decision.group!r}; remove them first and make "
                "a plan for what is left, or take the schedule Static()"
            )
    return kept


def _sparsity(plan: Plan) -> dict[str, Sparsity]:
    return {decision.layer: decision.sparsity for decision in plan.layers if decision.sparsity is not None}


def _criterion(plan: Plan, schedule: Schedule) -> str:
    """What chooses the weights that leave. Of `Static` they are zero already, which magnitude finds."""
    if isinstance(schedule, Static):
        return "magnitude"
    criteria = {decision.criterion for decision in plan.layers if decision.sparsity is not None}
    if len(criteria) > 1:
        raise ConfigError(
            f"plan: a schedule in training has one criterion for all layers, got {', '.join(sorted(criteria))}; "
            "choose one, or take the schedule Static()"
        )
    return next(iter(criteria), "magnitude")


def _begun(prepared: Prepared, what: str) -> Pruner:
    if prepared.pruner is None:
        raise ConfigError(
            f"{what}: the training has not begun: schedule {prepared.schedule.kind!r} needs the number of optimizer "
            "steps; give prepare(…, steps=…), or call begin(steps)"
        )
    return prepared.pruner
