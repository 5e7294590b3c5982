"""Every error that trimtab raises on purpose. Each message says where, the rule, what came, and the remedy."""


class TrimtabError(Exception):
    """Base of all errors that a user can act on; the command line prints it as one line."""


class ConfigError(TrimtabError):
    """A value that the user gave (budget, plan, option, name) breaks a rule."""


class TaskError(TrimtabError):
    """The task file, its function, or the data that it returns cannot be used."""


class CaptureError(TrimtabError):
    """The module cannot be captured as a graph; the message names the user's file and line."""


class PlanError(TrimtabError):
    """A plan does not fit the network that it is applied to."""


class LoweringError(TrimtabError):
    """The network cannot be written for the target."""


class RunError(TrimtabError):
    """The run folder belongs to another run, is in use, or is damaged."""


class NumericsError(TrimtabError):
    """NaN or infinity in weights, data, outputs or loss."""


class MissingPackageError(TrimtabError):
    """An optional package is needed; the message has the `pip install` line."""
