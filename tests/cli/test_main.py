"""The command line answers at once, names what is wrong first, and ends with the right status."""

import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from expert_condenser.cli import main as module
from expert_condenser.cli.console import DEFAULT, verbosity_of
from expert_condenser.cli.main import COMMANDS, main
from expert_condenser.errors import EvaluationError, FailedRunError, UsageError

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "scipy", "numpy", "rich")
FOLDER = Path(module.__file__).parent


@pytest.fixture
def command(monkeypatch):
    """Replace what `condenser methods` does."""

    def replace(action):
        monkeypatch.setattr("expert_condenser.cli.methods.run", action)

    return replace


def test_help_is_on_stdout_and_lists_every_command(capsys):
    for words in (["--help"], ["-h"]):
        assert main(words) == 0
        printed = capsys.readouterr()
        assert all(f"  {name} " in printed.out for name in COMMANDS)
        assert printed.err == ""


def test_no_word_at_all_is_a_usage_error(capsys):
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "condenser COMMAND" in printed.err


def test_the_version(capsys):
    import expert_condenser

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{expert_condenser.__version__}\n"


@pytest.mark.parametrize(
    ("wrong", "right"), [("trian", "train"), ("famlies", "families"), ("score-answer", "score-answers")]
)
def test_a_mistyped_command_is_named_with_the_nearest_one(capsys, wrong, right):
    assert main([wrong, "--help"]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"condenser: {wrong!r} is no command; did you mean {right!r}?\n"
    assert printed.out == ""


def test_a_word_that_is_like_no_command(capsys):
    assert main(["xyzzy"]) == 2
    assert "'xyzzy' is no command; there are train, check, plan, score" in capsys.readouterr().err


def test_there_is_a_file_for_every_command_and_a_command_for_every_file():
    others = {
        "__init__",
        "__main__",
        "main",
        "parsing",
        "console",
        "catalog",
        "progress",
        "keys",
        "outputs",
    }
    assert {path.stem for path in FOLDER.glob("*.py")} - others == {name.replace("-", "_") for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command(name, capsys):
    for words in ([name, "--help"], [name.replace("-", "_"), "-h"]):
        assert main(words) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith(("usage: condenser", "condenser"))
        assert printed.err == ""


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("train", "check", "testbed")])
def test_a_wrong_flag_is_named_before_what_is_missing(name, capsys):
    words = {"bench": ["layer"], "analyze": ["usage"]}.get(name, [])
    known = next(
        flag
        for flag in ("output_dir", "json", "model", "results", "repo_id", "out", "html")
        if f"--{flag}" in _help(name, capsys)
    )
    assert main([name, *words, f"--{known}s", "x"]) == 2
    assert capsys.readouterr().err == f"condenser {name}: '{known}s' is no flag; did you mean {known!r}?\n"


def _help(name, capsys):
    assert main([name, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["train", "check"])
def test_a_wrong_option_is_named_before_missing_data(name, capsys):
    assert main([name, "--lerning_rate", "1"]) == 2
    assert "'lerning_rate' is no option; did you mean 'learning_rate'?" in capsys.readouterr().err


def test_the_help_of_train_has_our_options_on_one_screen(capsys):
    text = _help("train", capsys)
    assert len(text.splitlines()) <= 50
    for name in ("model", "data", "limit", "num_condensers", "lora_r", "router_learning_rate_factor"):
        assert f"  --{name} " in text
    assert "  --adam_beta1" not in text
    assert main(["train", "--help", "--method", "esft_gate"]) == 0
    other = capsys.readouterr().out
    assert "  --top_p " in other
    assert "  --num_condensers " not in other
    assert main(["train", "--help_all"]) == 0
    assert "  --adam_beta1" in capsys.readouterr().out
    assert main(["train", "--help", "--method", "esft"]) == 2
    assert "'esft' is no method; did you mean" in capsys.readouterr().err


def test_exit_statuses(command, capsys):
    for error, status in (
        (UsageError("wrong words"), 2),
        (EvaluationError("wrong input"), 2),
        (FailedRunError("the loss is nan"), 1),
    ):

        def fail(words, error=error):
            raise error

        command(fail)
        assert main(["methods"]) == status
        assert capsys.readouterr().err == f"condenser methods: {error}\n"

    def interrupt(words):
        raise KeyboardInterrupt

    command(interrupt)
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "\ncondenser methods: interrupted\n"


def test_an_unexpected_error_keeps_its_traceback(command):
    def fail(words):
        raise ZeroDivisionError

    command(fail)
    with pytest.raises(ZeroDivisionError):
        main(["methods"])


@pytest.mark.parametrize(("package", "extra"), [("scipy", "statistics"), ("matplotlib", "plots"), ("lm_eval", "eval")])
def test_a_missing_extra_is_named(command, capsys, package, extra):
    def fail(words):
        raise ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.stats")

    command(fail)
    assert main(["methods"]) == 2
    assert f"pip install 'expert-condenser[{extra}]'" in capsys.readouterr().err

    def other(words):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    command(other)
    with pytest.raises(ModuleNotFoundError):
        main(["methods"])


def test_extras_are_those_of_the_package():
    from importlib.metadata import metadata

    assert set(module._EXTRAS.values()) <= set(metadata("expert-condenser").get_all("Provides-Extra"))


@pytest.mark.parametrize(
    ("words", "level", "rest"),
    [
        (["a", "--verbosity", "error", "b"], "error", ["a", "b"]),
        (["--verbosity=debug"], "debug", []),
        (["a"], DEFAULT, ["a"]),
    ],
)
def test_verbosity_is_of_every_command(words, level, rest):
    assert verbosity_of(words) == (level, rest)


def test_verbosity_decides_what_is_logged(command, capsys):
    def talk(words):
        log = logging.getLogger("expert_condenser.somewhere")
        log.info("it goes on")
        log.warning("look out")

    command(talk)
    assert main(["methods"]) == 0
    assert "it goes on" in capsys.readouterr().err
    assert main(["methods", "--verbosity", "warning"]) == 0
    printed = capsys.readouterr()
    assert "it goes on" not in printed.err
    assert "look out" in printed.err
    assert printed.out == ""
    assert main(["methods", "--verbosity", "loud"]) == 2
    assert "--verbosity is one of error, warning, info, debug; got 'loud'" in capsys.readouterr().err


def test_debug_shows_where_an_error_came_from(command, capsys):
    def fail(words):
        raise UsageError("wrong words")

    command(fail)
    assert main(["methods", "--verbosity", "debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["methods"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def loaded_by(*words):
    code = (
        "import sys\nfrom expert_condenser.cli.main import main\n"
        f"status = main({list(words)!r})\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules], status, sep=',', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *names, status = done.stderr.strip().splitlines()[-1].split(",")
    return {name for name in names if name}, int(status)


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["--version"], 0), (["trian"], 2)])
def test_what_needs_nothing_imports_nothing(words, status):
    assert loaded_by(*words) == (set(), status)


@pytest.mark.parametrize("words", [["methods"], ["families"], ["families", "--markdown"], ["methods", "--json"]])
def test_the_tables_need_no_torch(words):
    assert loaded_by(*words) == ({"rich"}, 0)


def test_a_comparison_needs_no_torch():
    names, status = loaded_by("compare", "--calibrate", "2")
    assert status == 0
    assert not names & {"torch", "transformers", "trl", "peft", "datasets"}


def test_python_m():
    for package in ("expert_condenser", "expert_condenser.cli"):
        done = subprocess.run([sys.executable, "-m", package, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.count(".") == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_imported_only_when_it_runs(name):
    assert callable(import_module(f"expert_condenser.cli.{name.replace('-', '_')}").run)


@pytest.mark.parametrize(
    "words", [["report", "NAME", "--out", "x.html"], ["watch", "NAME"], ["compare", "NAME", "NAME"]]
)
def test_a_name_that_no_file_can_have_is_no_traceback(words, capsys):
    assert main([word.replace("NAME", "a" * 300) for word in words]) == 2
    assert "no file or folder can have such a name" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["families"], ["methods"], ["families", "--pruning"]])
def test_output_that_nobody_reads_is_no_traceback(words):
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run(
        [sys.executable, "-m", "expert_condenser.cli", *words], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert found.returncode == 141
    assert found.stderr == b""


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch):
    def broken(words):
        raise BrokenPipeError

    monkeypatch.setattr("expert_condenser.cli.families.run", broken)
    with pytest.raises(BrokenPipeError):
        main(["families"])
