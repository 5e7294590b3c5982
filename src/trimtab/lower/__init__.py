"""Networks to files that runtimes execute, and the proof that they do. One file a target."""

from trimtab.lower.artifact import Artifact as Artifact
from trimtab.lower.contract import Backend as Backend
from trimtab.lower.contract import Simulation as Simulation
from trimtab.lower.kernels import Kernels as Kernels
from trimtab.lower.prove import prove as prove
from trimtab.lower.targets import TARGETS as TARGETS
from trimtab.lower.targets import backend as backend
from trimtab.lower.targets import load as load
from trimtab.lower.targets import lower as lower
from trimtab.lower.targets import lower_float as lower_float
from trimtab.lower.targets import target as target
