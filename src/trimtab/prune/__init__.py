"""Pruning: which units matter (criteria) and which stay (select)."""

from trimtab.prune.contract import BranchCriterion as BranchCriterion
from trimtab.prune.contract import Criterion as Criterion
from trimtab.prune.contract import EntryCriterion as EntryCriterion
from trimtab.prune.contract import UnitCriterion as UnitCriterion
from trimtab.prune.rank import rank as rank
from trimtab.prune.scores import Scores as Scores
from trimtab.registry import Registry

CRITERIA = Registry(
    "criterion",
    {
        "ablation": "trimtab.prune.criteria.ablation:Ablation",
        "activation": "trimtab.prune.criteria.activation:Activation",
        "apoz": "trimtab.prune.criteria.apoz:Apoz",
        "batchnorm_scale": "trimtab.prune.criteria.batchnorm_scale:BatchnormScale",
        "combined": "trimtab.prune.criteria.combined:Combined",
        "entropy": "trimtab.prune.criteria.entropy:Entropy",
        "fisher": "trimtab.prune.criteria.fisher:Fisher",
        "geometric_median": "trimtab.prune.criteria.geometric_median:GeometricMedian",
        "gradient": "trimtab.prune.criteria.gradient:Gradient",
        "hessian": "trimtab.prune.criteria.hessian:Hessian",
        "lamp": "trimtab.prune.criteria.lamp:Lamp",
        "magnitude": "trimtab.prune.criteria.magnitude:Magnitude",
        "magnitude_l1": "trimtab.prune.criteria.magnitude_l1:MagnitudeL1",
        "movement": "trimtab.prune.criteria.movement:Movement",
        "mutual_information": "trimtab.prune.criteria.mutual_information:MutualInformation",
        "obs": "trimtab.prune.criteria.obs:Obs",
        "random": "trimtab.prune.criteria.random:Random",
        "taylor": "trimtab.prune.criteria.taylor:Taylor",
    },
)

PENALTIES = Registry(
    "penalty",
    {
        "entropy": "trimtab.quant.entropy:Entropy",
        "group_lasso": "trimtab.prune.penalties.group_lasso:GroupLasso",
        "l0": "trimtab.prune.penalties.l0:L0",
        "l1": "trimtab.prune.penalties.l1:L1",
        "l2": "trimtab.prune.penalties.l2:L2",
        "slimming": "trimtab.prune.penalties.slimming:Slimming",
    },
)
