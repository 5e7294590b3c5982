"""Callbacks for training loops of other libraries. Import the one that you need: nothing here loads a library."""

from torch import nn

from trimtab.errors import ConfigError
from trimtab.prepare import Prepared


def prepared_in(model: nn.Module) -> Prepared:
    """The Prepared that is trained inside `model`, or is it. Raises: ConfigError for none or several."""
    found = [module for module in model.modules() if isinstance(module, Prepared)]
    if len(found) != 1:
        raise ConfigError(
            f"{type(model).__name__}: the callback needs one module made by trimtab.prepare in it, found {len(found)}; "
            "make it an attribute of the module that is trained" + (", and keep the other apart" if found else "")
        )
    return found[0]
