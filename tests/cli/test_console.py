"""What a command shows: the log, bars with the time left, and nothing that stays when it has ended."""

import logging
import os
import warnings

import pytest

from expert_condenser.cli.console import DEFAULT, progress, shown_log, verbosity_of

OWN = logging.getLogger("expert_condenser")


def settings():
    return list(OWN.handlers), OWN.level, OWN.propagate


def test_the_log_is_afterwards_as_it_was():
    before = settings()
    with shown_log("error"):
        assert OWN.level == logging.ERROR
        assert settings() != before
    assert settings() == before
    with pytest.raises(KeyError), shown_log("debug"):
        raise KeyError
    assert settings() == before


def test_other_libraries_are_quiet_unless_all_is_asked_for(monkeypatch):
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    with shown_log("debug"):
        assert "TRANSFORMERS_VERBOSITY" not in os.environ
    monkeypatch.setenv("DATASETS_VERBOSITY", "warning")
    with shown_log("info"):
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
        assert os.environ["DATASETS_VERBOSITY"] == "warning", "what the user set stays"
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY")


def test_names_that_other_libraries_use_are_nobody_s_concern():
    def of_others():
        warnings.warn("`gradient_checkpointing` is deprecated", FutureWarning, stacklevel=1)

    def heard(level):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with shown_log(level):
                of_others()
                warnings.warn("something else", FutureWarning, stacklevel=1)
            of_others()
        return len(caught)

    assert (heard("debug"), heard("info")) == (3, 2)


def test_the_last_verbosity_counts():
    assert verbosity_of(["--verbosity", "error", "a", "--verbosity=debug"]) == ("debug", ["a"])
    assert verbosity_of([]) == (DEFAULT, [])


def shown(level, capsys):
    with shown_log(level), progress("rows", 4) as advance:
        advance(1)
        advance(3)
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_a_bar_is_on_stderr_of_a_terminal(monkeypatch, capsys):
    assert shown("info", capsys) == "", "no terminal"
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    text = shown("info", capsys)
    assert "rows" in text
    assert "1/4" in text
    assert "4/4" in text
    assert shown("warning", capsys) == ""
