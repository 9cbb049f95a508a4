import json
from dataclasses import asdict, replace

import pytest

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.record import Record, append_records, pass_at_k, read_records, summarize


def record(item, *, correct, sample=0, task="sums", extracted="1", gold="1"):
    return Record(
        task, str(item), sample, [{"role": "user", "content": f"q{item}"}], gold, "o", 3, True, extracted, correct
    )


def test_records_survive_the_disk(tmp_path):
    records = [record(0, correct=True), record(1, correct=False, extracted=None, gold="ü")]
    append_records(tmp_path / "items.jsonl", records[:1])
    append_records(tmp_path / "items.jsonl", records[1:])
    assert read_records(tmp_path / "items.jsonl") == records
    assert read_records(tmp_path / "none.jsonl") == []


def test_a_last_line_cut_short_is_dropped_and_any_other_is_an_error(tmp_path):
    path = tmp_path / "items.jsonl"
    append_records(path, [record(0, correct=True), record(1, correct=True)])
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert [r.id for r in read_records(path)] == ["0"]
    append_records(path, [record(1, correct=True)])
    assert path.read_text() == whole
    for line in ("{}", "[" * 10_000 + "]" * 10_000):
        path.write_text(line + "\n" + whole)
        with pytest.raises(EvaluationError, match=r"items.jsonl, line 1"):
            read_records(path)


@pytest.mark.parametrize(
    ("correct", "samples", "k", "expected"),
    [(0, 4, 1, 0), (1, 4, 1, 0.25), (1, 4, 2, 0.5), (2, 4, 2, 1 - 1 / 6), (4, 4, 3, 1), (1, 4, 4, 1)],
)
def test_pass_at_k(correct, samples, k, expected):
    assert pass_at_k(correct, samples, k) == pytest.approx(expected)


def test_pass_at_k_refuses_more_than_there_is():
    with pytest.raises(EvaluationError, match="k <= samples"):
        pass_at_k(1, 4, 5)


def test_summary_of_one_answer_each():
    records = [record(0, correct=True), record(1, correct=False, extracted=None), record(2, correct=True)]
    found = summarize(records, 1)
    assert (found["n"], found["correct"], found["accuracy"]) == (3, 2, 2 / 3)
    assert (found["extracted"], found["cut"], found["correct_items"]) == (2, 0, "101")
    assert "pass_at_k" not in found


def test_summary_of_samples():
    hits = [[True, False, False, False], [False] * 4]
    records = [record(i, correct=hit, sample=s) for i, row in enumerate(hits) for s, hit in enumerate(row)]
    found = summarize(records, 4)
    assert (found["n"], found["correct"], found["accuracy"]) == (2, 1, 1 / 8)
    assert found["pass_at_k"] == pytest.approx({"1": 1 / 8, "2": 1 / 4, "4": 1 / 2})
    assert found["correct_samples"] == [1, 0]
    assert "correct_items" not in found


def test_the_fingerprint_is_of_the_items_alone():
    one, other, gold = (
        record(0, correct=True),
        record(0, correct=False, extracted="7"),
        record(0, correct=True, gold="2"),
    )
    assert summarize([one], 1)["items"] == summarize([other], 1)["items"] != summarize([gold], 1)["items"]
    assert json.loads(json.dumps(asdict(one)))["task"] == "sums"


def test_what_a_record_lacks_is_not_in_its_file_and_old_files_are_read(tmp_path):
    plain, full = record(0, correct=True), replace(record(1, correct=True), raw="<x>o", log_p={"text": [-1.0]})
    append_records(tmp_path / "items.jsonl", [plain, full])
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert ["raw" in line for line in lines] == ["log_p" in line for line in lines] == [False, True]
    assert read_records(tmp_path / "items.jsonl") == [plain, full]
    assert (plain.text, full.text) == ("o", "<x>o")
