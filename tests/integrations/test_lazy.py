"""trimtab without the libraries: importing it loads none of them, and a missing one is named with the remedy."""

import subprocess
import sys

import pytest

from trimtab.errors import MissingPackageError

OPTIONAL = ("lightning", "pytorch_lightning", "transformers", "accelerate", "tensorboard")


def test_importing_trimtab_loads_no_optional_library() -> None:
    code = f"import sys, trimtab, trimtab.cli, trimtab.integrations; print([n for n in {OPTIONAL} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [("lightning", "lightning.pytorch", "lightning"), ("huggingface", "transformers", "huggingface")],
)
def test_a_missing_library_is_named(module: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"trimtab.integrations.{module}", raising=False)
    with pytest.raises(MissingPackageError, match=rf"pip install 'trimtab\[{extra}\]'"):
        __import__(f"trimtab.integrations.{module}")
