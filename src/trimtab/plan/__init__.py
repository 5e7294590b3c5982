"""The nouns: Budget, Target, Scheme, Sparsity, Plan, Result. Data only; imports no torch."""

from trimtab.plan.budget import Budget as Budget
from trimtab.plan.budget import Limit as Limit
from trimtab.plan.plan import BranchDecision as BranchDecision
from trimtab.plan.plan import GroupDecision as GroupDecision
from trimtab.plan.plan import LayerDecision as LayerDecision
from trimtab.plan.plan import Plan as Plan
from trimtab.plan.record import Record as Record
from trimtab.plan.result import Drop as Drop
from trimtab.plan.result import FrontierPoint as FrontierPoint
from trimtab.plan.result import Measurement as Measurement
from trimtab.plan.result import Proof as Proof
from trimtab.plan.result import Result as Result
from trimtab.plan.result import Spread as Spread
from trimtab.plan.scheme import PER_CHANNEL as PER_CHANNEL
from trimtab.plan.scheme import PER_TENSOR as PER_TENSOR
from trimtab.plan.scheme import NofM as NofM
from trimtab.plan.scheme import Scheme as Scheme
from trimtab.plan.scheme import Sparsity as Sparsity
from trimtab.plan.scheme import Tiles as Tiles
from trimtab.plan.scheme import Weights as Weights
from trimtab.plan.target import Target as Target
