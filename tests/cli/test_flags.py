"""The flags of every command: old names still work, a wrong number is refused, and no flag costs an import of torch."""

from pathlib import Path

import pytest

from expert_condenser.cli import bench, compare, demo, eval, score, score_answers, testbed
from expert_condenser.cli.main import COMMANDS, main
from tests.cli.test_main import loaded_by

OLD_NAMES = [
    (
        score._read,
        ["--model_name_or_path", "m", "--dataset", "d", "--dataset_split", "s", "--rows", "3", "--output", "x.json"],
        {"model": "m", "data": "d", "split": "s", "limit": 3, "out": Path("x.json")},
    ),
    (
        eval._read,
        ["--model_name_or_path", "m", "--tasks", "t", "--out", "o", "--dataset_split", "test", "--max-new-tokens", "4"],
        {"model": "m", "output_dir": Path("o"), "split": "test", "max_new_tokens": 4, "limit": None},
    ),
    (
        score_answers._read,
        ["--task", "t", "--file", "f.json", "--show-misses"],
        {"data": Path("f.json"), "show_misses": True, "json": None},
    ),
    (compare._read, ["a", "b", "--format", "json"], {"runs": [Path("a"), Path("b")], "format": "json", "out": None}),
    (compare._read, ["a", "b", "--json"], {"format": "json", "out": None}),
    (compare._read, ["a", "b", "--json", "r.json"], {"format": "json", "out": Path("r.json")}),
    (demo._read, ["--items", "7", "--output-dir", "o"], {"limit": 7, "output_dir": Path("o"), "seeds": 1}),
    (
        bench._parser().read,
        ["layer", "--top-k", "3", "--experts-implementation", "eager", "--keep-freed-memory", "--json", "r.json"],
        {"top_k": 3, "experts_implementation": "eager", "keep_freed_memory": True, "json": "r.json"},
    ),
]


@pytest.mark.parametrize(("read", "words", "expected"), OLD_NAMES)
def test_the_flags_of_earlier_releases_work(read, words, expected):
    options = vars(read(words))
    assert {name: options[name] for name in expected} == expected


def test_the_flags_of_earlier_releases_work_in_testbed(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(testbed, "_evaluate", lambda path, count, out: calls.append((path.name, count, out)))
    monkeypatch.setattr(testbed, "_long_tail", lambda out, recipe, count: calls.append((out, recipe.steps, count)))
    assert main(["testbed", "evaluate", "--items", "3", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"result: {tmp_path / 'results.json'}\n"
    assert main(["testbed", "long-tail", "--items", "4", "--steps", "2", "--output_dir", str(tmp_path)]) == 0
    assert main(["testbed", "evaluate", "--model", "somewhere"]) == 0
    assert calls[:2] == [("base", 3, tmp_path), (tmp_path, 2, 4)]
    assert calls[2][:2] == ("somewhere", 400)


def test_testbed_needs_a_command(capsys):
    for words in ([], ["pretrian"]):
        assert main(["testbed", *words]) == 2
    error = capsys.readouterr().err
    assert "condenser testbed: '' is no testbed command; there are pretrain, long_tail, evaluate" in error
    assert "'pretrian' is no testbed command; did you mean 'pretrain'?" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["testbed", "evaluate", "--limit", "0"], "argument --limit: at least 1; got 0"),
        (["testbed", "pretrain", "--output_dir", "o", "--steps", "0"], "argument --steps: at least 1; got 0"),
        (["demo", "--seeds", "0"], "argument --seeds: at least 1; got 0"),
        (["demo", "--limit", "401"], "--limit is 1 to 400"),
        (["bench", "layer", "--tokens", "many"], "argument --tokens: a whole number; got 'many'"),
        (["methods", "--rounds", "1"], "argument --rounds: at least 2; got 1"),
    ],
)
def test_numbers_that_mean_nothing(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("train", "check", "testbed")])
def test_every_help_names_the_verbosity(name, capsys):
    assert main([name, "--help"]) == 0
    assert "--verbosity {error,warning,info,debug}" in capsys.readouterr().out
    words = {"bench": ["layer"], "analyze": ["usage"]}.get(name, [])
    assert main([name, *words, "--verbosty", "debug"]) == 2
    assert "did you mean 'verbosity'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["demo", "--itms", "3"], ["testbed", "evaluate", "--itms", "3"], ["score", "--x"], ["bench", "layer", "--x"]],
)
def test_a_wrong_flag_is_found_without_torch(words):
    names, status = loaded_by(*words)
    assert status == 2
    assert not names & {"torch", "transformers", "trl", "peft", "datasets"}
