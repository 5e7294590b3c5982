"""All tensors that training changes, taken from a trainer and put back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trimtab.recover.epoch import Trainer
from trimtab.recover.optimizer import optimizer_tensors, restore_optimizer, trained_parameters

Parts = Mapping[str, Mapping[str, Tensor]]


def taken(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Copies, by part and name."""
    parts = {
        "network": copied_tensors(trainer.network.state_dict()),
        "optimizer": optimizer_tensors(trainer.optimizer, _trained(trainer)),
        "projections": copied_tensors(_projections(trainer)),
    }
    if trainer.prepared is not None and trainer.prepared.pruner is not None:
        parts["pruner"] = trainer.prepared.pruner.state()
    if trainer.average is not None:
        parts["average"] = trainer.average.state()
    if trainer.pressure is not None:
        parts["pressure"] = trainer.pressure.state()
    return parts


def put_back(trainer: Trainer, parts: Parts) -> None:
    """Go back to what `taken` gave."""
    trainer.network.load_state_dict(parts["network"])
    restore_optimizer(trainer.optimizer, _trained(trainer), parts.get("optimizer", {}))
    with torch.no_grad():
        for name, projection in _projections(trainer).items():
            projection.copy_(parts["projections"][name])
    if trainer.prepared is not None and trainer.prepared.pruner is not None:
        trainer.prepared.pruner.restore(parts["pruner"])
    if trainer.average is not None:
        trainer.average.restore(parts["average"])
    if trainer.pressure is not None:
        trainer.pressure.restore(parts["pressure"])


def _projections(trainer: Trainer) -> dict[str, nn.Parameter]:
    return {
        f"projection.{number}.{name}": parameter
        for number, imitator in enumerate(trainer.imitators)
        for name, parameter in imitator.projections()
    }


def _trained(trainer: Trainer) -> dict[str, nn.Parameter]:
    return trained_parameters(trainer.network.named_parameters()) | _projections(trainer)


def copied_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that no training changes."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
