"""One rule an operator: how it relates the axes of its inputs, parameters and outputs. One file a family."""

from trimtab.graph.rules import attention as attention
from trimtab.graph.rules import contract as contract
from trimtab.graph.rules import create as create
from trimtab.graph.rules import einsum as einsum
from trimtab.graph.rules import elementwise as elementwise
from trimtab.graph.rules import join as join
from trimtab.graph.rules import norm as norm
from trimtab.graph.rules import normalize as normalize
from trimtab.graph.rules import pick as pick
from trimtab.graph.rules import pool as pool
from trimtab.graph.rules import reduce as reduce
from trimtab.graph.rules import repeat as repeat
from trimtab.graph.rules import shape as shape
from trimtab.graph.rules import shuffle as shuffle
from trimtab.graph.rules import slices as slices
from trimtab.graph.rules.table import RULES as RULES
from trimtab.graph.rules.table import rule as rule
