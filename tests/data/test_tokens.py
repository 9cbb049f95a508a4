"""Rows are rendered once: what was computed from them is found on disk."""

from datasets import Dataset

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.data import tokens
from expert_condenser.data.rows import load_rows
from expert_condenser.data.tokens import length_report, on_disk


def test_the_same_rows_are_the_same_files():
    first, second = (load_rows("testbed:count_bits:5", "test") for _ in range(2))
    assert first.cache_files == second.cache_files != []
    assert first.to_dict() == second.to_dict()
    assert load_rows("testbed:count_bits:6", "test").cache_files != first.cache_files


def test_a_second_report_renders_nothing(monkeypatch):
    tokenizer = load_tokenizer(base_model_path())
    expected = length_report(load_rows("testbed:count_bits:5", "test"), tokenizer, 30)

    def fail(*args, **options):
        raise AssertionError("rendered again")

    monkeypatch.setattr(type(tokenizer), "apply_chat_template", fail)
    assert length_report(load_rows("testbed:count_bits:5", "test"), tokenizer, 30) == expected


def test_control_another_template_is_rendered_again():
    tokenizer = load_tokenizer(base_model_path())
    rows = load_rows("testbed:count_bits:5", "test")
    before = length_report(rows, tokenizer, 30)
    tokenizer.chat_template = "7" + tokenizer.chat_template
    assert length_report(rows, tokenizer, 30)["tokens"] > before["tokens"]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tokens.datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    rows = Dataset.from_dict({"prompt": [[{"role": "user", "content": "7"}]]})
    assert on_disk(rows) is rows
