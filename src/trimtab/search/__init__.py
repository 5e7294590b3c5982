"""Search: what options cost, the best of all combinations (MILP), what to try next; `prune` and `quantize`."""

from trimtab.search.answer import contradictions as contradictions
from trimtab.search.answer import nearest as nearest
from trimtab.search.fitting import fitting_plan as fitting_plan
from trimtab.search.plan_search import anchored as anchored
from trimtab.search.plan_search import least as least
from trimtab.search.plan_search import predicted as predicted
from trimtab.search.plan_search import search as search
from trimtab.search.plan_search import widest_plan as widest_plan
from trimtab.search.plan_stats import stats_for as stats_for
from trimtab.search.profile import COST_QUANTITIES as COST_QUANTITIES
from trimtab.search.profile import Profile as Profile
from trimtab.search.profile import build_profile as build_profile
from trimtab.search.pruning import Curves as Curves
from trimtab.search.pruning import measure_curves as measure_curves
from trimtab.search.pruning import prune as prune
from trimtab.search.quantizing import quantize as quantize
from trimtab.search.standalone import profile as profile
from trimtab.search.strategy import Attempt as Attempt
from trimtab.search.strategy import Judgement as Judgement
from trimtab.search.strategy import Proposal as Proposal
from trimtab.search.strategy import Rung as Rung
from trimtab.search.strategy import best_of as best_of
from trimtab.search.strategy import nearest_rung as nearest_rung
from trimtab.search.strategy import propose as propose
