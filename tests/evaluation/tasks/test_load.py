"""What every task shares: names, files, the hub, limits, ids, and errors before any model is loaded."""

import json

import pytest
from datasets import Dataset

from expert_condenser.data import sources
from expert_condenser.data.procedural.families import BY_NAME
from expert_condenser.data.splits import SPLITS
from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.answers import NUMBER
from expert_condenser.evaluation.tasks import TASKS, check_names, load
from expert_condenser.evaluation.tasks.task import Question

ROW = {"instruction": "What is 2 + 3?", "input": "", "output": "2 + 3 = 5.", "answer": "5.0"}
NAMES = [
    *("gsm8k", "svamp", "mawps", "aqua", "addsub", "singleeq", "multiarith", "mathqa", "math_500"),
    *("boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa", "gpqa_diamond"),
]


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """A hub of one row that records what it is asked for."""
    asked = []

    def load_dataset(name, config=None, *, split, revision=None):
        asked.append((name, config, split, revision))
        return Dataset.from_list([{"question": "2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}])

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    return asked


def write(path, rows=(ROW,)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        Dataset.from_list(list(rows)).to_parquet(str(path))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(list(rows)))
    return path


def test_the_names_of_the_tasks():
    assert list(TASKS) == NAMES + [f"testbed:{family}" for family in BY_NAME]
    assert all(name == known.name for name, known in TASKS.items())
    check_names(["gsm8k", "testbed:gcd"])


def test_a_question(tmp_path):
    loaded = load("gsm8k", write(tmp_path / "any.json", [ROW, ROW | {"answer": "6,000"}]))
    assert (loaded.name, loaded.answer, loaded.max_new_tokens) == ("gsm8k", NUMBER, 512)
    prompt = [{"role": "user", "content": "What is 2 + 3?"}]
    assert loaded.questions == [
        Question("0", prompt, "5.0", "<think>2 + 3 = 5.</think>\\boxed{5.0}"),
        Question("1", prompt, "6000", "<think>2 + 3 = 5.</think>\\boxed{6,000}"),
    ]


def test_a_row_without_output_has_no_reference(tmp_path):
    bare = {"instruction": "What is 2 + 3?", "answer": 5}
    (question,) = load("gsm8k", write(tmp_path / "any.json", [bare])).questions
    assert (question.gold, question.reference) == ("5", "")


@pytest.mark.parametrize("limit", [1, 2, 5, None])
def test_the_limit_takes_the_first_questions(tmp_path, limit):
    rows = [ROW | {"instruction": f"What is 2 + {number}?"} for number in range(3)]
    questions = load("svamp", write(tmp_path / "any.jsonl", rows), limit).questions
    expected = [row["instruction"] for row in rows][:limit]
    assert [question.prompt[0]["content"] for question in questions] == expected


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gsm8k", "gsm8k.json"),
        ("gsm8k", "GSM8K.jsonl"),
        ("gsm8k", "gsm8k_main.jsonl"),
        ("gsm8k", "gsm8k_test.jsonl"),
        ("gsm8k", "gsm8k/test.json"),
        ("gsm8k", "gsm8k/test.jsonl"),
        ("gsm8k", "gsm8k/test-00000-of-00001.parquet"),
        ("gsm8k", "gsm8k-eval.json"),
        ("gsm8k", "gsm8k/data/test-00000-of-00001.parquet"),
        ("gsm8k", "gsm8k/main/test-00000-of-00001.parquet"),
        ("gsm8k", "gsm8k/main/test.jsonl"),
        ("gsm8k", "gsm8k/test/0000.parquet"),
        ("boolq", "boolq/data/validation-00000-of-00001.parquet"),
        ("aqua", "AQuA.json"),
        ("aqua", "aqua_rat/test.json"),
        ("siqa", "social_i_qa.json"),
        ("siqa", "social_i_qa/validation.jsonl"),
        ("arc_easy", "ARC-Easy/test.json"),
        ("boolq", "boolq/dev.jsonl"),
        ("math_500", "MATH-500/test.jsonl"),
        ("gpqa_diamond", "gpqa_diamond.parquet"),
    ],
)
def test_files_that_a_directory_is_searched_for(tmp_path, name, file):
    answers = {"aqua": "A", "siqa": "answer1", "arc_easy": "answer1", "boolq": "true", "gpqa_diamond": "A"}
    write(tmp_path / "other.json", [{"no": "task"}])
    write(tmp_path / file, [ROW | {"answer": answers.get(name, "5")}])
    assert len(load(name, tmp_path).questions) == 1


@pytest.mark.parametrize(
    "file",
    [
        *("gsm8k_latest.json", "gsm8k/train.json", "gsm8k/socratic/test.json", "my_gsm8k_test.json"),
        *(".gsm8k.json", ".cache/gsm8k/test.json", "gsm8k/test/state.json"),
    ],
)
def test_control_files_that_are_not_the_test_questions(tmp_path, file):
    write(tmp_path / file)
    with pytest.raises(DataError, match="must hold the test questions of gsm8k"):
        load("gsm8k", tmp_path)


def test_a_copy_of_the_hub_is_asked_for_the_split_that_has_answers(tmp_path):
    for split, count in (("train", 1), ("validation", 2), ("test", 3)):
        write(tmp_path / "boolq" / "data" / f"{split}-00000-of-00001.parquet", [ROW | {"answer": "true"}] * count)
        write(tmp_path / "gsm8k" / "main" / f"{split}-00000-of-00001.parquet", [ROW] * count)
    counts = [[len(load(name, tmp_path, split=split).questions) for split in SPLITS] for name in ("boolq", "gsm8k")]
    assert counts == [[1, 2, 2], [1, 2, 3]]


def test_a_shard_that_names_two_splits(tmp_path):
    write(tmp_path / "gsm8k" / "test-train.parquet")
    with pytest.raises(DataError, match=r"gsm8k/test-train\.parquet names test and train; rename it"):
        load("gsm8k", tmp_path)


def test_the_folder_of_a_task_may_be_named_itself(tmp_path):
    write(tmp_path / "gsm8k" / "test.jsonl")
    assert len(load("gsm8k", tmp_path / "gsm8k").questions) == 1
    with pytest.raises(DataError, match="must hold the test questions of svamp"):
        load("svamp", tmp_path / "gsm8k")


def test_the_preferred_file_comes_first(tmp_path):
    for number, file in enumerate(["gsm8k.json", "gsm8k/test.json", "gsm8k_main.jsonl"]):
        write(tmp_path / file, [ROW] * (number + 1))
    assert len(load("gsm8k", tmp_path).questions) == 1
    (tmp_path / "gsm8k.json").unlink()
    assert len(load("gsm8k", tmp_path).questions) == 2


SHARDS = ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]


def shards(folder, names, rows=(ROW,)):
    for number, name in enumerate(names):
        write(folder / name, [row | {"instruction": f"What is {number}?"} for row in rows])


@pytest.mark.parametrize("names", [SHARDS, ["test-00000.parquet", "test-00001.parquet"]])
def test_all_shards_are_read_in_their_order(tmp_path, names):
    shards(tmp_path / "gsm8k", names)
    write(tmp_path / "gsm8k" / "train-00000-of-00003.parquet")
    for folder in (tmp_path, tmp_path / "gsm8k"):
        for limit in (None, 1):
            questions = load("gsm8k", folder, limit).questions
            asked = [(question.id, question.prompt[0]["content"]) for question in questions]
            assert asked == [("0", "What is 0?"), ("1", "What is 1?")][:limit]


@pytest.mark.parametrize(
    "names",
    [
        SHARDS[:1],
        SHARDS[1:],
        [*SHARDS, "test-00002-of-00002.parquet"],
        [*SHARDS, "test-00000-of-00003.parquet"],
        ["test-00000-of-00002-a.parquet", "test-00000-of-00002-b.parquet"],
        ["test-00000-of-00001.parquet", "test-more.parquet"],
    ],
)
def test_shards_that_are_missing_or_too_many(tmp_path, names):
    shards(tmp_path / "gsm8k", names)
    with pytest.raises(DataError, match=rf"gsm8k must hold each of \d shards once, .* but it has {names[0]}"):
        load("gsm8k", tmp_path)


def test_shards_of_other_columns_and_with_bad_rows(tmp_path):
    shards(tmp_path / "gsm8k", SHARDS, [ROW, ROW])
    write(tmp_path / "gsm8k" / SHARDS[1], [ROW, ROW | {"answer": "five"}])
    with pytest.raises(DataError, match=rf"{SHARDS[0]} to {SHARDS[1]}, row 4: the gold answer .* must be a number"):
        load("gsm8k", tmp_path)
    write(tmp_path / "gsm8k" / SHARDS[1], [{"question": "a", "answer": "#### 5"}])
    with pytest.raises(DataError, match=r"the shards of a set have the same columns, but .* has question, answer"):
        load("gsm8k", tmp_path)


def test_another_split_of_a_directory(tmp_path):
    write(tmp_path / "gsm8k.json")
    write(tmp_path / "gsm8k" / "dev.jsonl", [ROW] * 2)
    write(tmp_path / "gsm8k" / "train.jsonl", [ROW] * 3)
    counts = [len(load("gsm8k", tmp_path, split=split).questions) for split in ("test", "validation", "train")]
    assert counts == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "split", "asked"),
    [
        ("gsm8k", "test", ("openai/gsm8k", "main", "test", None)),
        ("gsm8k", "train", ("openai/gsm8k", "main", "train", None)),
    ],
)
def test_the_hub(hub, name, split, asked):
    (question,) = load(name, split=split).questions
    assert hub == [asked]
    assert (question.gold, question.reference) == ("5", "<think>2 + 3 = 5</think>\\boxed{5}")


@pytest.mark.parametrize("name", ["boolq", "piqa", "siqa", "hellaswag", "winogrande"])
def test_sets_whose_test_split_has_no_answers_are_asked_from_the_validation_split(hub, name):
    for split in ("test", "validation"):
        with pytest.raises(DataError):  # the columns of the one row are not theirs
            load(name, split=split)
    assert [split for _, _, split, _ in hub] == ["validation", "validation"]


@pytest.mark.parametrize("name", [name for name in NAMES if TASKS[name].hub is not None])
def test_a_hub_that_fails_is_one_message(monkeypatch, name):
    def refuse(*arguments, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(sources, "load_dataset", refuse)
    with pytest.raises(DataError, match=rf"{name}: the split .* cannot be loaded: no network; download it"):
        load(name)


@pytest.mark.parametrize("name", ["addsub", "singleeq"])
def test_sets_that_are_not_on_the_hub(hub, name):
    with pytest.raises(DataError, match=f"{name} has no data set on the hub; name a file or directory that holds"):
        load(name)
    assert hub == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "gsm9k"}, "a task is one of gsm8k, .*, testbed:worked_legs.*; got gsm9k"),
        ({"name": "gsm8k", "split": "dev"}, "a split is one of train, validation, test; got 'dev'"),
    ],
)
def test_unknown_names(options, message):
    with pytest.raises(EvaluationError, match=message):
        load(**options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a data set must have rows, but .* is empty"),
        ("[]", "a data set must have rows, but .* is empty"),
        ('{"instruction": "a", "answer": "5"}\n{"instruction": "a"', r"rows\.jsonl, line 2: this is not valid JSON"),
        ("[1]", "row 1: a row must be a JSON object, but it is a int"),
        (
            '{"instruction": "a"}',
            "the columns of gsm8k are one of: instruction, answer; question, answer; got instruction",
        ),
        (
            '{"instruction": "a", "answer": "five"}',
            r"rows\.jsonl, row 1: the gold answer of gsm8k must be a number, .*'five'",
        ),
        ('{"instruction": "a", "answer": "5"}\n{"instruction": "a", "answer": ""}', "row 2: every row needs an answer"),
        ('{"instruction": "a", "answer": "5"}\n{"answer": "5"}', "row 2: every row needs a value in 'instruction'"),
        ('{"question": "a", "answer": "It is 5."}', r"row 1: 'answer' must end in a line '#### n'"),
        ('{"question": "a", "answer": "#### five"}', "row 1: the gold answer of gsm8k must be a number"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load("gsm8k", path)


def test_bad_paths_and_limits(tmp_path):
    for path in (tmp_path / "none.json", tmp_path / "none"):
        with pytest.raises(DataError, match="the data must exist, but there is no file or directory"):
            load("gsm8k", path)
    with pytest.raises(DataError, match=r"must hold the test questions of gsm8k, but has none of: gsm8k\.json"):
        load("gsm8k", tmp_path)
    with pytest.raises(DataError, match="a single file has no splits"):
        load("gsm8k", write(tmp_path / "any.json"), split="train")
    with pytest.raises(DataError, match="limit must be at least 1, but it is 0"):
        load("gsm8k", write(tmp_path / "any.json"), limit=0)
    (tmp_path / "rows.txt").write_text("a,b")
    with pytest.raises(DataError, match="a data file must be one of"):
        load("gsm8k", tmp_path / "rows.txt")
