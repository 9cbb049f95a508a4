"""One name per thing: dashes, aliases and hints in the flags of every command but `train`."""

import json

import pytest

from expert_condenser.cli.console import put_json, say_result
from expert_condenser.cli.main import main
from expert_condenser.cli.parsing import SHARED, Parser
from expert_condenser.errors import UsageError
from expert_condenser.names import ALIASES, HINTS, canonical, nearest, unknown


@pytest.fixture
def parser():
    parser = Parser("test", "A test.", {"items": "limit"})
    for name in ("model", "data", "limit", "json", "output_dir"):
        parser.shared(name)
    parser.add_argument("--show_misses", action="store_true")
    return parser


def test_dashes_and_underscores_are_the_same(parser):
    assert parser.read(["--show-misses"]).show_misses is True
    assert parser.read(["--show_misses"]).show_misses is True
    assert parser.read(["--output-dir=a-b"]).output_dir.name == "a-b"


@pytest.mark.parametrize(
    ("flag", "name"),
    [("--model_name_or_path", "model"), ("--dataset", "data"), ("--dataset-name", "data"), ("--items", "limit")],
)
def test_old_names_work(parser, flag, name):
    assert str(getattr(parser.read([flag, "7"]), name)) == "7"


def test_a_value_is_not_a_flag(parser):
    assert parser.read(["--model", "model-name_or-path"]).model == "model-name_or-path"


@pytest.mark.parametrize("name", HINTS)
def test_what_other_tools_call_it(parser, name):
    with pytest.raises(UsageError, match=rf"--{name} is not a flag here: "):
        parser.read([f"--{name}", "x"])


def test_a_wrong_flag_comes_before_everything_else():
    parser = Parser("test", "A test.")
    parser.shared("model", required=True)
    with pytest.raises(UsageError, match=r"'modle' is no flag; did you mean 'model'\?"):
        parser.read(["--modle", "x"])
    with pytest.raises(UsageError, match="the following arguments are required: --model; see condenser test --help"):
        parser.read([])


def test_nothing_is_abbreviated(parser):
    with pytest.raises(UsageError, match=r"'mod' is no flag; did you mean 'model'\?"):
        parser.read(["--mod", "x"])


def test_json_without_a_file_goes_to_stdout(parser, capsys, tmp_path):
    assert parser.read([]).json is None
    put_json(parser.read(["--json"]).json, {"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    path = tmp_path / "out.json"
    put_json(parser.read(["--json", str(path)]).json, {"a": 2})
    assert capsys.readouterr().out == f"result: {path}\n"
    assert json.loads(path.read_text()) == {"a": 2}


def test_the_result_is_the_last_line(capsys, tmp_path):
    print("a table")
    say_result(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == f"result: {tmp_path}"


def test_names():
    assert canonical("--learning-rate") == "learning_rate"
    assert {canonical(name) for name in ALIASES} == set(ALIASES.values())
    assert nearest("lern", ["learn", "model"]) == "learn"
    assert nearest("zzz", ["learn", "model"]) is None
    assert unknown("word", "zzz", ["a", "b"]) == "'zzz' is no word; there are a, b"
    assert not set(SHARED) & (set(ALIASES) | set(HINTS))


@pytest.mark.parametrize("command", ["upcycle", "simulate", "eval"])
@pytest.mark.parametrize(
    ("value", "rule"), [("9" * 23, "below 2**32"), ("-1", "at least 0"), ("0.5", "a whole number")]
)
def test_a_seed_is_one_that_torch_and_numpy_take(command, value, rule, capsys):
    words = {
        "upcycle": ["--model", "dense", "--output_dir", "out"],
        "simulate": ["usage.json", "--ranks", "8"],
        "eval": ["--model", "testbed", "--tasks", "testbed:gcd"],
    }
    assert main([command, *words[command], "--seed", value]) == 2
    error = capsys.readouterr().err
    assert rule in error
    assert "--seed" in error
