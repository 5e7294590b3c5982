"""Samplers that learn from what came of earlier factors, by Optuna."""

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from trimtab.search.corrections import LEAST, MOST, Factors

_SPACE: dict[str, BaseDistribution] = {name: FloatDistribution(LEAST, MOST, log=True) for name in Factors.model_fields}


class _Learning:
    def __init__(self, chooses: optuna.samplers.BaseSampler) -> None:
        self._study = _silent_study(chooses)
        self._study.enqueue_trial(Factors().model_dump())
        self._asked: dict[Factors, optuna.Trial] = {}

    def ask(self) -> Factors:
        """First the losses as they are."""
        trial = self._study.ask(_SPACE)
        factors = Factors(**trial.params)
        self._asked[factors] = trial
        return factors

    def tell(self, factors: Factors, value: float) -> None:
        self._study.tell(self._asked.pop(factors), value)


class Tpe(_Learning):
    """Tree-structured Parzen estimator, after a quarter of the trials by chance.

    Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization".
    """

    def __init__(self, *, seed: int, trials: int) -> None:
        super().__init__(optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, trials // 4)))


class Evolutionary(_Learning):
    """NSGA-II, in generations of a quarter of the trials.

    Source: Deb et al. 2002, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II".
    """

    def __init__(self, *, seed: int, trials: int) -> None:
        super().__init__(optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, trials // 4)))


def _silent_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """Optuna says on standard error that it has begun; its verbosity is as before afterwards."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)
