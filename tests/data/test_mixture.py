"""Several sources in exact shares."""

import json

import pytest

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.data.examples import Reading, build_examples
from expert_condenser.data.mixture import Source, counts_of, order_of, sources_of
from expert_condenser.data.stops import stop_tokens
from expert_condenser.errors import DataError


@pytest.mark.parametrize(
    ("sizes", "weights", "limit", "counts"),
    [
        ([1000, 500], [0.99, 0.01], None, [1000, 10]),
        ([1000, 500], [99.0, 1.0], 200, [198, 2]),
        ([30, 30, 30], [1.0, 1.0, 1.0], 10, [4, 3, 3]),
        ([10, 90], [0.5, 0.5], None, [10, 10]),
        ([3, 5], [None, None], None, [3, 5]),
        ([3, 5], [None, None], 4, [3, 1]),
        ([7, 7], [0.1, 0.2], None, [3, 7]),
    ],
)
def test_counts_are_exact(sizes, weights, limit, counts):
    assert counts_of(sizes, weights, limit) == counts


def test_a_list_of_sources_as_yaml_or_json():
    listed = [{"path": "a.jsonl", "weight": 0.99}, {"path": "old.jsonl", "weight": 0.01, "split": "train"}]
    expected = (Source("a.jsonl", 0.99), Source("old.jsonl", 0.01, "train"))
    assert sources_of(listed) == sources_of(json.dumps(listed)) == expected
    assert sources_of("a.jsonl") == (Source("a.jsonl"),)
    assert sources_of(["a.jsonl", "b.jsonl"]) == (Source("a.jsonl"), Source("b.jsonl"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "data must be a path, or a list of sources"),
        ("[1", "a list of sources must be JSON"),
        ([{"file": "a"}], "a source of a mixture has path, weight"),
        ([{"weight": 1}], "needs a 'path'"),
        ([{"path": "a", "weight": 0}], "the weight of a must be above 0, but it is 0.0"),
        ([{"path": "a", "weight": "1"}], "the weight of a source must be a number, but it is '1'"),
        (
            [{"path": "a", "weight": 1}, "b"],
            "either every source of a mixture has a weight or .* b has none",
        ),
    ],
)
def test_a_list_that_is_none(value, message):
    with pytest.raises(DataError, match=message):
        sources_of(value)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(base_model_path())


def mixed(tokenizer, sources, **options):
    return build_examples(sources_of(sources), tokenizer, stop_tokens(tokenizer), Reading(**options))


def test_a_mixture_has_the_rows_of_its_sources_in_an_order_of_its_seed(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    sources = [{"path": "testbed:gcd:40", "weight": 0.9}, {"path": "testbed:count_bits:40", "weight": 0.1}]
    first, again, other = (mixed(tokenizer, sources, seed=seed) for seed in (1, 1, 2))
    assert first.report.used == 44
    whole = {tuple(ids) for ids in mixed(tokenizer, "testbed:gcd:40").dataset["input_ids"]}
    of_gcd = [tuple(ids) in whole for ids in first.dataset["input_ids"]]
    assert sum(of_gcd) == 40
    assert of_gcd[:40] != [True] * 40, "the sources are mixed"
    assert first.report.digest == again.report.digest != other.report.digest
    assert [file.path for file in first.report.files["train"]] == ["testbed:gcd:40", "testbed:count_bits:40"]


def test_a_source_of_which_nothing_is_taken_is_a_warning(tokenizer):
    sources = [{"path": "testbed:gcd:40", "weight": 0.999}, {"path": "testbed:count_bits:40", "weight": 0.001}]
    for _ in range(2):
        assert "the mixture takes no row of testbed:count_bits:40" in mixed(tokenizer, sources).report.warnings[0]
    sources[1]["weight"] = 0.5
    assert mixed(tokenizer, sources).report.warnings == []


def test_a_row_that_is_skipped_is_followed_by_the_next(tokenizer, tmp_path):
    rows = [{"prompt": f"a{n}", "completion": "" if n % 2 else "b"} for n in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    sources = [{"path": str(tmp_path / "rows.json"), "weight": 0.2}, {"path": "testbed:gcd:40", "weight": 0.8}]
    found = mixed(tokenizer, sources, on_bad_row="skip")
    assert found.report.used == 50
    assert len(found.report.refused) == 10


def test_orders_differ_by_source():
    assert sorted(order_of(9, 1, 0)) == list(range(9))
    assert order_of(9, 1, 0) != order_of(9, 1, 1)
