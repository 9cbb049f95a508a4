"""Single keys: from a terminal as they are pressed, and none from anything else."""

import os
import sys

import pytest

from expert_condenser.cli.keys import pressed_within, reading_keys


def test_keys_come_one_by_one_and_the_terminal_is_as_it_was(monkeypatch):
    termios = pytest.importorskip("termios", reason="the system has no terminals of this kind")
    master, slave = os.openpty()
    with os.fdopen(slave) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        before = termios.tcgetattr(slave)
        with reading_keys() as keyboard:
            assert keyboard == slave
            assert termios.tcgetattr(slave) != before, "control: without Enter"
            os.write(master, b"bq")
            assert [pressed_within(5.0, keyboard), pressed_within(5.0, keyboard)] == ["b", "q"]
            assert pressed_within(0.01, keyboard) == ""
        assert termios.tcgetattr(slave) == before
    os.close(master)


def test_what_is_no_terminal_has_no_keys(monkeypatch):
    reader, writer = os.pipe()
    os.write(writer, b"q")
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with reading_keys() as keyboard:
            assert keyboard is None
            assert pressed_within(0.01, keyboard) == ""
    os.close(writer)
