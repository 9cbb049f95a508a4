"""`condenser check`: what a run would train on, without a weight."""

import json

import pytest

from expert_condenser.cli.main import main
from tests.runs import make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def words(tmp_path, rows, base="testbed", **options):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    given = {"model": base, "data": data, "method": "sft", "output_dir": tmp_path / "run", **options}
    common = {"use_cpu": "true", "bf16": "false", "report_to": "none"}
    return ["check", *(word for name, value in {**given, **common}.items() for word in (f"--{name}", str(value)))]


GOOD = {"prompt": "What is 2 + 3?", "completion": "5"}


def report(capsys, *arguments):
    status = main([*arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_facts_about_good_rows(tmp_path, capsys):
    status, found = report(capsys, *words(tmp_path, [GOOD, {**GOOD, "id": 7}]))
    assert status == 0
    assert found["format_version"] == 1
    assert found["files"] == {"train": [{"path": str(tmp_path / "rows.jsonl"), "rows": 2}]}
    assert found["rows"] == {"used": 2, "refused": []}
    assert found["unused_columns"] == ["id"]
    assert found["sample"]["prompt_text"] == "<|user|>What is 2 + 3?<|end|><|assistant|>"
    assert found["sample"]["trained_text"] == "5<|end|>"
    assert len(found["sample"]["trained_ids"]) == 2
    assert found["stop_tokens"] == ["<|end|>"]
    assert found["lengths"]["truncated"] == found["lengths"]["without_answer"] == 0
    assert found["errors"] == []
    assert not (tmp_path / "run").exists()


def test_a_row_that_is_mended_is_refused_no_more(tmp_path, capsys):
    for rows, used, refused in (([GOOD, {"prompt": "a"}], 1, 1), ([GOOD, GOOD], 2, 0), ([GOOD], 1, 0)):
        _, found = report(capsys, *words(tmp_path, rows))
        assert (found["rows"]["used"], len(found["rows"]["refused"])) == (used, refused)


def test_rows_of_which_none_can_be_used(tmp_path, capsys):
    status, found = report(capsys, *words(tmp_path, [{"prompt": "a", "completion": " "}]))
    assert status == 2
    assert (found["rows"]["used"], len(found["rows"]["refused"])) == (0, 1)


def test_a_row_on_one_line_of_a_file_that_is_one_object(tmp_path, capsys):
    for text, rows in ((json.dumps({"data": [GOOD, GOOD]}), 2), (json.dumps(GOOD), 1), (json.dumps(GOOD, indent=1), 1)):
        _, found = report(capsys, *words(tmp_path, [text]))
        assert found["rows"] == {"used": rows, "refused": []}


def test_rows_that_are_refused_are_named_by_line(tmp_path, capsys):
    rows = [GOOD, "", {"prompt": "a", "completion": " "}, {**GOOD, "label": False}]
    status, found = report(capsys, *words(tmp_path, rows))
    assert status == 2
    assert [(row["row"], row["file"]) for row in found["rows"]["refused"]] == [
        (3, str(tmp_path / "rows.jsonl")),
        (4, str(tmp_path / "rows.jsonl")),
    ]
    assert found["rows"]["used"] == 1
    assert "line 3: 'completion' must not be empty" in found["errors"][0]
    status, found = report(capsys, *words(tmp_path, rows, on_bad_row="skip"))
    assert (status, found["errors"], found["rows"]["used"]) == (0, [], 1)
    assert len(found["rows"]["refused"]) == 2


def test_half_of_a_surrogate_pair_is_a_row_that_is_refused(tmp_path, capsys):
    rows = [GOOD, '{"prompt": "a\\ud83d", "completion": "b"}']
    status, found = report(capsys, *words(tmp_path, rows))
    assert status == 2
    assert found["rows"]["refused"][0]["row"] == 2
    assert "Unicode" in found["rows"]["refused"][0]["reason"]


def test_errors_that_are_of_no_row(tmp_path, capsys):
    status, found = report(capsys, *words(tmp_path, [GOOD], end_of_turn="", method="stf"))
    assert status == 2
    assert "stf" in found["errors"][0]
    assert found["rows"] == {"used": 0, "refused": []}


def test_for_a_person(tmp_path, capsys):
    assert main(words(tmp_path, [GOOD, {**GOOD, "id": 3}])) == 0
    shown = capsys.readouterr().out
    assert "rows used: 2; refused: 0" in shown
    assert "generation stops at: <|end|>" in shown
    assert "columns that are not used: id" in shown


def test_the_same_is_refused_by_train_before_anything_is_written(tmp_path, capsys, base):
    arguments = words(tmp_path, [GOOD, {**GOOD, "images": ["x"]}], base=base / "model")
    assert main(arguments) == 2
    refused = capsys.readouterr().err
    assert main(["train", *arguments[1:]]) == 2
    assert "line 2: 'images' (\"['x']\") would be lost" in refused
    assert "line 2: 'images' (\"['x']\") would be lost" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
