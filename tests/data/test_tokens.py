"""Rows are rendered once: what was computed from them is found on disk."""

import pytest
from datasets import Dataset

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.data import cache
from expert_condenser.data.cache import kept
from expert_condenser.data.examples import Reading, build_examples
from expert_condenser.data.mixture import sources_of
from expert_condenser.data.rendering import Renderer
from expert_condenser.data.stops import stop_tokens

SOURCE = sources_of("testbed:count_bits:5")


@pytest.fixture
def tokenizer(monkeypatch, tmp_path):
    monkeypatch.setattr(cache.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return load_tokenizer(base_model_path())


def build(tokenizer, **options):
    return build_examples(SOURCE, tokenizer, stop_tokens(tokenizer), Reading(split="test", **options))


def test_a_second_time_nothing_is_rendered_and_the_report_is_the_same(tokenizer, monkeypatch):
    expected = build(tokenizer, max_length=30)

    def fail(*args, **options):
        raise AssertionError("rendered again")

    monkeypatch.setattr(Renderer, "text", fail)
    found = build(tokenizer, max_length=30)
    assert found.report == expected.report
    assert found.dataset.to_dict() == expected.dataset.to_dict()


@pytest.mark.parametrize("change", [{"loss_on": "everything"}, {"limit": 4}])
def test_control_another_option_is_computed_anew(tokenizer, change):
    assert build(tokenizer).report.digest != build(tokenizer, **change).report.digest


def test_control_another_template_is_rendered_again(tokenizer):
    before = build(tokenizer).report
    tokenizer.chat_template = "7" + tokenizer.chat_template
    after = build(tokenizer).report
    assert after.lengths.mean == before.lengths.mean + 1
    assert after.template != before.template


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(cache.datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    made = Dataset.from_dict({"input_ids": [[1]]}), {"used": 1}
    assert kept(["key"], lambda: made) is made
