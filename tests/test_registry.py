import pytest

from trimtab.errors import ConfigError, MissingPackageError
from trimtab.registry import Registry


def test_load_imports_the_attribute():
    registry = Registry("thing", {"join": "os.path:join"})
    from os.path import join

    assert registry.load("join") is join
    assert list(registry) == ["join"]
    assert "join" in registry
    assert "split" not in registry


def test_an_unknown_name_lists_the_known_ones_sorted():
    registry = Registry("grid", {"ternary": "os:sep", "affine": "os:sep"})
    with pytest.raises(ConfigError, match=r"unknown grid 'log5'; known: affine, ternary"):
        registry.load("log5")


def test_a_name_is_taken_once():
    registry = Registry("grid", {"affine": "os:sep"})
    with pytest.raises(ConfigError, match="already registered as os:sep"):
        registry.register("affine", "os:linesep")
    assert registry.load("affine") == "/"


@pytest.mark.parametrize("target", ["os.sep", "os:path:join", ""])
def test_a_target_is_module_and_attribute(target):
    with pytest.raises(ConfigError, match="module:attribute"):
        Registry("grid", {"affine": target})


def test_a_missing_package_names_its_extra():
    registry = Registry("target")
    registry.register("phone", "package_that_is_not_there:thing", extra="phone")
    with pytest.raises(MissingPackageError, match=r"package_that_is_not_there.*trimtab\[phone\]"):
        registry.load("phone")


def test_a_missing_module_of_ours_is_not_blamed_on_an_extra():
    registry = Registry("target")
    registry.register("phone", "trimtab.no_such_module:thing", extra="phone")
    with pytest.raises(ModuleNotFoundError):
        registry.load("phone")
