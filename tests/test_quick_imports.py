"""The garbage collector rests while libraries are loaded, and only then."""

import gc
import sys

import pytest

from trl_dapo.cli import quick_imports
from trl_dapo.cli.quick_imports import collector_off


@pytest.fixture
def not_loaded(monkeypatch):
    monkeypatch.setattr(quick_imports, "LOADED", "a_library_that_is_not_loaded")
    yield
    gc.unfreeze()


def test_it_rests_during_the_first_imports_and_leaves_them_alone_later(not_loaded):
    gc.unfreeze()
    with collector_off():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_it_works_again_after_an_error(not_loaded):
    with pytest.raises(ImportError), collector_off():
        raise ImportError
    assert gc.isenabled()


def test_it_goes_on_where_all_is_loaded(monkeypatch):
    monkeypatch.setattr(quick_imports, "LOADED", "sys")
    assert "sys" in sys.modules
    with collector_off():
        assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(not_loaded):
    gc.disable()
    try:
        with collector_off():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
