import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from expert_condenser.data import sources
from expert_condenser.data.examples import Reading, build_examples
from expert_condenser.data.formats import FORMATS, choose_format, text_of
from expert_condenser.data.mixture import sources_of
from expert_condenser.data.reading import read_row
from expert_condenser.data.report import Lengths
from expert_condenser.data.stops import stop_tokens
from expert_condenser.errors import DataError
from expert_condenser.testbed.tokenizer import train_tokenizer
from tests.pairs import load_rows
from tests.samples import folders

ROOTS = dict(zip(("samples", "widened"), folders("train", "train"), strict=False))
"""Files made for the tests, and the real ones in the same formats where they are at hand."""

ALPACA = {"instruction": "What is 2 + 3?", "input": "", "output": "2 + 3 = 5.", "answer": "5.0"}
GSM8K = {"question": "How many?", "answer": "Half is 48/2 = <<48/2=24>>24.\nSum <<a>>1,024.\n#### 1,024"}
S1K = {
    "question": "What is 2 + 3?",
    "thinking_trajectories": ["Two and three."],
    "attempt": "It is 5.",
    "cot_type": "math",
}
MAWPS = {"original_text": "How many?", "equation": "X=(5.0-3.0)", "ans": 2.0}
DEEP = "[" * 10_000 + "]" * 10_000
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is 2 + 3? 2 + 3 = 5.", "Half is 24. How many?"])


@pytest.fixture(autouse=True)
def no_hub_and_no_shared_cache(monkeypatch, tmp_path):
    """A test that would ask the hub fails instead; parquet files are not cached in the home directory."""

    def refuse(*arguments, **options):
        raise ConnectionError("the hub was asked")

    monkeypatch.setattr(sources, "load_dataset", refuse)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def build(source, tokenizer, **options):
    return build_examples(sources_of(source), tokenizer, stop_tokens(tokenizer), Reading(**options))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "style", "prompt", "completion"),
    [
        (S1K, "auto", "What is 2 + 3?", "<think>Two and three.</think>It is 5."),
        (ALPACA, "auto", "What is 2 + 3?", "<think>2 + 3 = 5.</think>\\boxed{5.0}"),
        (ALPACA, "plain", "What is 2 + 3?", "2 + 3 = 5."),
        (
            ALPACA | {"input": "Use sums."},
            "auto",
            "What is 2 + 3?\n\nUse sums.",
            "<think>2 + 3 = 5.</think>\\boxed{5.0}",
        ),
        (ALPACA | {"answer": 5}, "auto", "What is 2 + 3?", "<think>2 + 3 = 5.</think>\\boxed{5}"),
        (ALPACA | {"answer": 5.0}, "auto", "What is 2 + 3?", "<think>2 + 3 = 5.</think>\\boxed{5}"),
        (ALPACA | {"answer": " D "}, "auto", "What is 2 + 3?", "<think>2 + 3 = 5.</think>\\boxed{D}"),
        (ALPACA | {"output": ""}, "auto", "What is 2 + 3?", "<think></think>\\boxed{5.0}"),
        (ALPACA | {"answer": "answer4"}, "boxed", "What is 2 + 3?", "<think>2 + 3 = 5.</think>\\boxed{answer4}"),
        ({"instruction": "Hi", "output": " Hello\n"}, "auto", "Hi", " Hello\n"),
        (GSM8K, "auto", "How many?", "<think>Half is 48/2 = 24.\nSum 1,024.</think>\\boxed{1024}"),
        (GSM8K, "plain", "How many?", GSM8K["answer"]),
        (GSM8K | {"answer": "It falls.\n#### -7"}, "boxed", "How many?", "<think>It falls.</think>\\boxed{-7}"),
        (MAWPS, "auto", "How many?", "<think>X=(5.0-3.0)</think>\\boxed{2}"),
        (MAWPS | {"ans": "0.53"}, "boxed", "How many?", "<think>X=(5.0-3.0)</think>\\boxed{0.53}"),
        (MAWPS, "plain", "How many?", "2"),
        ({"prompt": "Hi", "completion": "Hello"}, "auto", "Hi", "Hello"),
    ],
)
def test_rows_of_one_turn(tmp_path, row, style, prompt, completion):
    dataset = load_rows(write(tmp_path / "rows.json", [row]), answer_style=style)
    assert dataset.column_names == ["prompt", "completion"]
    assert dataset[0] == {"prompt": [user(prompt)], "completion": [assistant(completion)]}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, user("a"), assistant("b"), user("c"), assistant("d")]},
        {"prompt": [SYSTEM, user("a"), assistant("b"), user("c")], "completion": [assistant("d")]},
        {"prompt": [SYSTEM, user("a"), assistant("b"), user("c")], "completion": "d", "id": 3},
        {"messages": [SYSTEM, user("a"), assistant("b") | {"weight": 0}, user("c"), assistant("d")], "prompt": "z"},
    ],
)
def test_system_turns_and_earlier_turns_stay_in_the_prompt(tmp_path, row):
    dataset = load_rows(write(tmp_path / "rows.json", [row]))
    assert dataset[0] == {"prompt": [SYSTEM, user("a"), assistant("b"), user("c")], "completion": [assistant("d")]}


@pytest.mark.parametrize("answer", ["5", "-3.25", "1,024", ".5", "3/4", "$12", "50%", "1e5", "A", "e"])
def test_alpaca_boxes_math_answers(answer):
    assert FORMATS["alpaca"].convert(ALPACA | {"answer": answer}, "auto")[0][1]["content"].endswith(f"{{{answer}}}")


@pytest.mark.parametrize("answer", ["true", "False", "answer4", "solution1", "option2", "ending3", True, "", None])
def test_alpaca_keeps_the_output_of_choices_and_of_rows_without_answer(answer):
    assert FORMATS["alpaca"].convert(ALPACA | {"answer": answer}, "auto")[0][1] == assistant("2 + 3 = 5.")


def test_a_field_of_a_table_may_be_long(tmp_path):
    long = "a" * 200_000
    (tmp_path / "rows.csv").write_text(f"prompt,completion\n{long},b\n")
    before = csv.field_size_limit()
    assert load_rows(str(tmp_path / "rows.csv"))["prompt"][0][0]["content"] == long
    assert csv.field_size_limit() == before


def test_a_number_of_thousands_of_digits_is_an_error_with_its_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"n": 1' + "0" * 5000 + "}")
    with pytest.raises(DataError, match="from line 2 on: a row must be flat and short"):
        load_rows(str(tmp_path / "rows.jsonl"))


def test_text_of_a_value():
    values = [3.0, 2.5, 7, True, "4.0", None, float("nan"), float("inf")]
    assert [text_of(value) for value in values] == ["3", "2.5", "7", "true", "4.0", "", "", ""]
    deep = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(DataError, match="flat JSON, but it cannot be written"):
        text_of(deep)


def test_formats_are_detected_in_their_order():
    every = [column for known in FORMATS.values() for column in known.columns]
    for name, known in FORMATS.items():
        assert choose_format(every) is known, name
        for column in known.columns:  # one of each: formats may share a column
            every.remove(column)


def test_an_explicit_format_wins_over_detection(tmp_path):
    path = write(tmp_path / "rows.json", [{"instruction": "What is 2 + 3?", "output": "5"} | GSM8K])
    assert load_rows(path, answer_style="plain")[0]["prompt"] == [user("What is 2 + 3?")]
    assert load_rows(path, data_format="gsm8k")[0]["prompt"] == [user("How many?")]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_list_and_json_lines_are_read_whatever_the_suffix(tmp_path, name):
    rows = [ALPACA, ALPACA | {"answer": 7, "extra": {"a": [1, "b"]}}, ALPACA | {"answer": "true", "extra": 2}]
    listed = load_rows(write(tmp_path / name, rows))
    lines = load_rows(write_lines(tmp_path / name, rows))
    assert listed.to_list() == lines.to_list()
    assert [row["completion"][0]["content"] for row in lines] == [
        "<think>2 + 3 = 5.</think>\\boxed{5.0}",
        "<think>2 + 3 = 5.</think>\\boxed{7}",
        "2 + 3 = 5.",
    ]


def test_a_line_separator_inside_a_string_ends_no_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\ufeff{"prompt": "a\u2028b", "completion": "c"}\r\n\r\n', encoding="utf-8")
    assert load_rows(str(path)).to_list() == [{"prompt": [user("a\u2028b")], "completion": [assistant("c")]}]


@pytest.mark.parametrize("row", [MAWPS | {"other": 3}, {"messages": [SYSTEM, user("a"), assistant("b")], "other": 3}])
def test_parquet_gives_the_rows_that_json_gives(tmp_path, row):
    Dataset.from_list([row, row]).to_parquet(str(tmp_path / "rows.parquet"))
    parquet = load_rows(str(tmp_path / "rows.parquet"))
    assert parquet.to_list() == load_rows(write(tmp_path / "rows.json", [row, row])).to_list()


def test_a_directory_gives_the_files_of_one_split_each_in_its_own_format(tmp_path):
    write(tmp_path / "b-train.json", [MAWPS])
    write_lines(tmp_path / "a.training.jsonl", [GSM8K, GSM8K])
    write(tmp_path / "test-1.json", [{"prompt": "only", "completion": "test"}])
    write(tmp_path / "valid.json", [{"prompt": "only", "completion": "validation"}])
    (tmp_path / "README.md").write_text("not data")
    train = load_rows(str(tmp_path))
    assert [row["completion"][0]["content"][-6:] for row in train] == ["{1024}", "{1024}", "xed{2}"]
    assert load_rows(str(tmp_path), "test")["completion"][0] == [assistant("test")]
    for split in ("validation", "dev"):
        assert load_rows(str(tmp_path), split)["completion"][0] == [assistant("validation")]
    assert len(load_rows(str(tmp_path), limit=2)) == 2
    assert load_rows(str(tmp_path), limit=3).to_list() == train.to_list()


def test_limit_reads_no_row_behind_it(tmp_path):
    path = write(tmp_path / "rows.json", [MAWPS, MAWPS | {"ans": None}])
    assert len(load_rows(path, limit=1)) == 1
    with pytest.raises(DataError, match=r"row 2"):
        load_rows(path, limit=2)


def test_a_hub_name_and_its_configuration(monkeypatch):
    asked = []
    rows = Dataset.from_list([GSM8K])
    monkeypatch.setattr(
        sources, "load_dataset", lambda name, config, split, revision: asked.append((name, config, split)) or rows
    )
    assert load_rows("owner/name:main", "test")[0]["prompt"] == [user("How many?")]
    load_rows("name")
    assert asked == [("owner/name", "main", "test"), ("name", None, "train")]


def test_a_hub_name_that_cannot_be_loaded():
    with pytest.raises(DataError, match=r"'owner/name' is no local file .* the split 'train' .*: the hub was asked"):
        load_rows("owner/name")


@pytest.mark.parametrize("name", ["rows.json", "folder", "deep/er/rows.parquet"])
def test_a_missing_path_is_named_and_not_asked_of_the_hub(tmp_path, name):
    with pytest.raises(DataError, match=f"no file or directory .*{name}"):
        load_rows(str(tmp_path / name))


def test_a_missing_relative_path_is_not_asked_of_the_hub():
    for source in ("missing.jsonl", "data/missing.json", "./missing", "one/two/three"):
        with pytest.raises(DataError, match="no file or directory"):
            load_rows(source)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", DEEP, r"a\.json, from line 1 on: a row must be flat"),
        ("a.json", f'[{{"a": {DEEP}}}]', r"a\.json, from line 1 on: a row must be flat"),
        (
            "a.jsonl",
            f'{{"a": 1}}\n{{"a": {DEEP}}}\n',
            r"a\.jsonl, from line 2 on: a row must be flat",
        ),
        ("a.jsonl", '{"a": 1}\n\n{"a": \n{"a": 2}\n', r"a\.jsonl, line 3: this is not valid JSON"),
        ("a.json", '[\n{"a": 1},\n{"a" 2}\n]', r"a\.json, line 3: this is not valid JSON"),
        ("a.json", '[{"a": 1}, 7]', r"row 2: a row must be a JSON object, but it is a int"),
        ("a.json", "[]", r"must have rows, but .*a\.json is empty"),
        ("a.jsonl", "\n", r"must have rows, but .*a\.jsonl is empty"),
        ("a.txt", "a,b", r"must be one of \.json, \.jsonl, \.parquet, \.csv, \.ndjson, but it is .*a\.txt"),
        ("a.csv", "a,b", r"must have rows, but .*a\.csv is empty"),
        ("a.csv", "prompt,completion\nb\n", r"a\.csv, line 2: a row must have as many values as the header"),
        ("a.parquet", "no parquet", r"a\.parquet must be a parquet file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_rows(str(tmp_path / name))


def test_a_file_that_is_not_utf8(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(DataError, match=r"a\.json must be a readable UTF-8 file"):
        load_rows(str(tmp_path / "a.json"))


def test_a_directory_without_files_of_the_split(tmp_path):
    with pytest.raises(DataError, match=r"files of the split 'train', but it has none \(such files in it: none\)"):
        load_rows(str(tmp_path))
    write(tmp_path / "rows.json", [MAWPS])
    with pytest.raises(DataError, match=r"split 'test', but it has none \(such files in it: rows\.json\)"):
        load_rows(str(tmp_path), "test")
    with pytest.raises(DataError, match="a single file has no splits, but split='test'"):
        load_rows(str(tmp_path / "rows.json"), "test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ALPACA | {"output": None}, "row 2: every row needs a value in 'output'"),
        (ALPACA | {"instruction": " "}, "row 2: 'instruction' must not be empty"),
        (ALPACA | {"output": "\n", "answer": "true"}, "row 2: 'output' must not be empty"),
        (ALPACA | {"answer": "about five"}, "row 2: 'answer' must be a number or .* 'about five'; set answer_style="),
    ],
)
def test_a_bad_alpaca_row(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        load_rows(write(tmp_path / "rows.json", [ALPACA, row]))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", GSM8K | {"answer": "It is 5."}, r"end in a line '#### n', but it ends in 'It is 5\.'"),
        ("gsm8k", GSM8K | {"answer": "#### 5\nwell"}, "end in a line '#### n'"),
        ("gsm8k", {"question": "How many?"}, "needs a value in 'answer'"),
        ("mawps", MAWPS | {"ans": float("nan")}, "'ans' must not be empty"),
        ("s1k", S1K | {"thinking_trajectories": []}, "'thinking_trajectories' must be a list of one text"),
        ("s1k", S1K | {"thinking_trajectories": ["a", "b"]}, "'thinking_trajectories' must be a list of one text"),
        ("s1k", S1K | {"attempt": " "}, "'attempt' must not be empty"),
        ("prompt_completion", {"prompt": "a", "completion": " "}, "'completion' must not be empty"),
        ("prompt_completion", {"prompt": "a", "completion": []}, "'completion' must be a list of turns"),
        (
            "prompt_completion",
            {"prompt": "a", "completion": [user("b")]},
            r"'completion' must begin and end with a turn from 'assistant', .* \['user'\]",
        ),
        (
            "prompt_completion",
            {"prompt": [assistant("a")], "completion": "b"},
            "end with .* 'user' or 'tool', but .* 'assistant'",
        ),
        ("messages", {"messages": "a"}, "'messages' must be a list of turns, but it is 'a'"),
        ("messages", {"messages": None}, "'messages' must be a list of turns"),
        ("messages", {"messages": [user("a")]}, "last turn of 'messages' must be from 'assistant', but .* 'user'"),
        (
            "messages",
            {"messages": [assistant("a")]},
            "the prompt must end with a turn from 'user' or 'tool', but it has no turns",
        ),
        ("messages", {"messages": [{"role": "critic", "content": "a"}]}, "must have a 'role' of system, developer"),
        ("messages", {"messages": [user("a"), {"role": "assistant", "content": None}]}, "a text as 'content'"),
        (
            "messages",
            {"messages": [user("a"), assistant("b") | {"refusal": "c"}]},
            "has refusal, which would be lost",
        ),
    ],
)
def test_a_bad_row(name, row, message):
    with pytest.raises(DataError, match=message):
        read_row(row, FORMATS[name], "auto")


def test_an_empty_completion_names_its_row(tmp_path):
    chat = {"messages": [user("a"), assistant("b")]}
    with pytest.raises(DataError, match=r"rows\.json, row 2: the completion must not be empty"):
        load_rows(write(tmp_path / "rows.json", [chat, {"messages": [user("a"), assistant(" ")]}]))


def test_unknown_columns_list_what_was_found_and_every_format(tmp_path):
    path = write(tmp_path / "rows.json", [{"text": "a", "label": 1}])
    known = "messages needs messages; sharegpt needs conversations; prompt_completion needs prompt, completion; "
    known += "alpaca needs instruction, output; "
    known += "s1k needs question, thinking_trajectories, attempt; gsm8k needs question, answer; "
    known += "mawps needs original_text, equation, ans"
    with pytest.raises(DataError, match=rf"rows\.json: the columns text, label do not fit any known format; .*{known}"):
        load_rows(path)
    with pytest.raises(DataError, match="do not fit data_format 'gsm8k'"):
        load_rows(path, data_format="gsm8k")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_format": "orca"}, "data_format must be 'auto' or one of messages, .* but it is 'orca'"),
        ({"answer_style": "latex"}, "answer_style must be one of auto, boxed, plain, but it is 'latex'"),
        ({"answer_style": "boxed"}, "answer_style='boxed' has no effect on the format 'prompt_completion'"),
        ({"limit": 0}, "limit must be at least 1, but it is 0"),
    ],
)
def test_a_bad_option(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        load_rows(write(tmp_path / "rows.json", [{"prompt": "a", "completion": "b"}]), **options)


def test_the_examples_are_those_of_the_options(tmp_path, tokenizer):
    path = write(tmp_path / "rows.json", [GSM8K, GSM8K, GSM8K])
    found = build(path, tokenizer, data_format="gsm8k", answer_style="plain", limit=2)
    assert found.report.used == len(found.dataset) == 2
    assert found.report.sample.trained_text == GSM8K["answer"] + "<|end|>"
    assert found.report.sample.prompt_text == "<|user|>How many?<|end|><|assistant|>"


def test_examples_need_a_chat_template(tmp_path, tokenizer):
    path = write(tmp_path / "rows.json", [GSM8K])
    with pytest.raises(DataError, match=r"has none; set tokenizer\.chat_template"):
        build(path, with_template(tokenizer, None))


TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            TURNS + "{% if add_generation_prompt %}<|assistant|><think></think>{% endif %}",
            r"closes the thoughts before they begin, and this row has thoughts; set chat_template_kwargs",
        ),
        ("{{ messages | length }}" + TURNS, r"rewrites the prompt from character 0 on"),
        (
            "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}{% endfor %}",
            "drops 'Half is",
        ),
        (
            TURNS + "{{ raise_exception('no such role') }}",
            "must render every turn of the data, but it fails: no such role",
        ),
    ],
)
def test_a_template_that_would_train_on_the_wrong_tokens(tmp_path, tokenizer, template, message):
    path = write(tmp_path / "rows.json", [GSM8K])
    assert build(path, with_template(tokenizer, TURNS), end_of_turn="<|end|>").report.used == 1
    with pytest.raises(DataError, match=message):
        build(path, with_template(tokenizer, template), end_of_turn="<|end|>")


def with_template(tokenizer, template):
    copy = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    copy.chat_template = template
    copy.eos_token = "<|end|>"
    return copy


@pytest.mark.parametrize(("limit", "truncated", "without_answer"), [(9, 3, 2), (20, 0, 0)])
def test_lengths_say_what_truncation_costs(tmp_path, tokenizer, limit, truncated, without_answer):
    rows = [{"prompt": "7" * n, "completion": "8" * 4} for n in (1, 5, 6, 12)]
    # <|user|>, the digits, <|end|>, <|assistant|>; then four digits and <|end|>
    found = build(write(tmp_path / "rows.json", rows), tokenizer, max_length=limit).report.lengths
    assert found == (Lengths(14.0, 20, truncated, without_answer))


SIZES = {  # rows, and those of them that end in a box
    "samples": {
        "gsm8k.jsonl": (4, 4),
        "math_data.json": (3, 3),
        "mawps.json": (3, 3),
        "arc_easy.json": (3, 0),
        "arc_challenge.json": (3, 0),
        "openbookqa.json": (3, 0),
    },
    "widened": {
        "gsm8k.jsonl": (7473, 7473),
        "math_data.json": (3260, 3260),
        "mawps.json": (1898, 1898),
        "arc_easy.json": (2251, 0),
        "arc_challenge.json": (1119, 0),
        "openbookqa.json": (4957, 0),
    },
}


@pytest.mark.parametrize(("root", "name"), [(root, name) for root in ROOTS for name in SIZES[root]])
def test_training_files(root, name, tokenizer):
    rows = load_rows(str(ROOTS[root] / name))
    answers = [completion[0]["content"] for completion in rows["completion"]]
    matches = [
        answer.startswith("<think>") and "</think>\\boxed{" in answer and answer.endswith("}") for answer in answers
    ]
    assert (len(rows), sum(matches)) == SIZES[root][name]
    assert [turn["role"] for turn in rows[0]["prompt"] + rows[0]["completion"]] == ["user", "assistant"]
    assert not any("<<" in answer or "####" in answer for answer in answers)
    assert build(str(ROOTS[root] / name), tokenizer).report.used == len(rows)


def test_a_binary_file_with_text_that_is_none_is_named(tmp_path):
    wrong = pa.array([b"good", b"so \xca\x57"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, wrong.buffers())
    pq.write_table(pa.table({"question": text, "answer": pa.array(["#### 5"] * 2)}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows.parquet, row 2: text is UTF-8, and here are other bytes"):
        load_rows(str(tmp_path / "rows.parquet"))
