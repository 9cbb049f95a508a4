import json
from dataclasses import replace

import pytest

from expert_condenser.cli.score_answers import run as score_answers
from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.record import Record, append_records
from tests.samples import folders

PAIRS = [
    {"output": "The answer is 5.", "answer": "5.0"},
    {"output": "The answer is 6.", "answer": "5.0"},
    {"output": "I do not know [b].", "answer": "5.0"},
    {"output": None, "answer": 5},
]
SCORES = {  # per task: the file; extracted and correct of our sample, then of the wider set
    "gsm8k": ("gsm8k", (4, 4), (117, 74)),
    "svamp": ("SVAMP", (3, 2), (119, 92)),
    "addsub": ("AddSub", (3, 3), (120, 114)),
    "singleeq": ("SingleEq", (3, 2), (120, 118)),
    "multiarith": ("MultiArith", (3, 3), (120, 115)),
    "aqua": ("AQuA", (4, 3), (118, 60)),
    "mathqa": ("mathqa", (0, 0), (0, 0)),
    "boolq": ("boolq", (3, 3), (120, 120)),
    "piqa": ("piqa", (3, 3), (120, 120)),
    "siqa": ("social_i_qa", (3, 3), (120, 120)),
    "winogrande": ("winogrande", (3, 3), (120, 120)),
    "arc_easy": ("ARC-Easy", (3, 3), (120, 120)),
    "arc_challenge": ("ARC-Challenge", (2, 2), (120, 120)),
    "openbookqa": ("openbookqa", (3, 3), (120, 120)),
}


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(PAIRS))
    return str(path)


def test_json(pairs, capsys):
    score_answers(["--task", "gsm8k", "--file", pairs, "--json"])
    assert json.loads(capsys.readouterr().out) == {"n": 4, "extracted": 2, "correct": 1}


def test_json_with_misses(pairs, capsys):
    score_answers(["--task", "gsm8k", "--file", pairs, "--json", "--show-misses"])
    misses = json.loads(capsys.readouterr().out)["misses"]
    assert misses == [{"row": 3, "output": "I do not know [b]."}, {"row": 4, "output": ""}]


def test_a_line_for_people(pairs, capsys):
    score_answers(["--task", "gsm8k", "--file", pairs])
    assert capsys.readouterr().out == "gsm8k: 4 answers, 2 extracted (50.0%), 1 correct (25.0%)\n"
    score_answers(["--task", "gsm8k", "--file", pairs, "--show-misses"])
    out = capsys.readouterr().out
    assert "row 3: … I do not know [b]." in out
    assert "row 4: … (empty)" in out


def test_lines_of_json_and_the_rules_of_another_task(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"output": "the correct answer is answer3", "answer": "answer3"}\n')
    score_answers(["--task", "siqa", "--file", str(path), "--json"])
    path.write_text('{"output": "1+1=2\\n#### 2", "answer": "1+1=2\\n#### 2"}\n')
    score_answers(["--task", "testbed:worked_sums", "--file", str(path), "--json"])
    out = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in out] == [{"n": 1, "extracted": 1, "correct": 1}] * 2


def record(task, at, output, gold):
    prompt = [{"role": "user", "content": "How many?"}]
    return Record(task, str(at), 0, prompt, gold, output, tokens=4, ended=True, extracted=None, correct=False)


def test_the_items_of_an_evaluation_are_scored_by_task(tmp_path, capsys):
    path = tmp_path / "items.jsonl"
    pairs = [("The answer is 5.", "5"), ("The answer is 6.", "5"), ("I do not know.", "5")]
    append_records(path, [record("gsm8k", at, *pair) for at, pair in enumerate(pairs)])
    append_records(path, [record("boolq", 0, "It is true.", "true"), record("aqua", 0, "5", "B")])
    append_records(path, [record("gsm8k", 3, "", "5")])
    scored = []
    for task in ("gsm8k", "boolq", "aqua"):
        score_answers(["--task", task, "--file", str(path), "--json", "--show-misses"])
        scored.append(json.loads(capsys.readouterr().out))
    assert scored == [
        {
            **{"n": 4, "extracted": 2, "correct": 1},
            "misses": [{"row": 3, "output": "I do not know."}, {"row": 6, "output": ""}],
        },
        {"n": 1, "extracted": 1, "correct": 1, "misses": []},
        {"n": 1, "extracted": 0, "correct": 0, "misses": [{"row": 5, "output": "5"}]},
    ]


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("gsm8k", None, r"the file must exist, but there is no file .*pairs\.json"),
        ("gsm8k", "", "a data set must have rows, but .* is empty"),
        ("gsm8k", '[{"output": "5",', r"pairs\.json, line 1: this is not valid JSON"),
        ("gsm8k", '{"output": "5", "answer": "5"}\n{', r"pairs\.json, line 2: this is not valid JSON"),
        ("gsm8k", '[{"answer": "5"}]', r"row 1: a row needs 'output' and 'answer' .*this one has no 'output' \(its"),
        ("gsm8k", '[{"text": "5"}]', "this one has no 'output' and no 'answer'"),
        ("gsm8k", '[{"gold": "5"}]', "this one has no 'output' "),
        ("gsm8k", '[{"output": "5", "gold": "A"}]', "row 1: 'gold' must be a number for this task, but it is 'A'"),
        ("gsm8k", '[{"output": "5", "gold": "5", "answer": "A"}]', "row 1: 'answer' must be a number for this task"),
        (
            "gsm8k",
            '[{"task": "svamp"}, {"task": "boolq"}, {"task": "svamp"}]',
            r"pairs\.json must have rows of the task 'gsm8k', but it has only those of svamp, boolq; name one",
        ),
        ("gsm8k", '[{"task": "gsm8k"}, {"output": "5"}]', "every row or none has a 'task', but row 2 has none; add it"),
        ("gsm8k", '[{"output": "5", "answer": "A"}]', "row 1: 'answer' must be a number for this task, but it is 'A'"),
        ("aqua", '[{"output": "5", "answer": "5"}]', "'answer' must be a letter from A to E for this task"),
        ("boolq", '[{"output": "5", "answer": ""}]', "'answer' must be true or false for this task, but it is ''"),
    ],
)
def test_bad_files(tmp_path, task, content, message):
    path = tmp_path / "pairs.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        score_answers(["--task", task, "--file", str(path)])


def test_an_unknown_task(pairs):
    with pytest.raises(EvaluationError, match=r"a task is one of gsm8k, .*; got gsm9k"):
        score_answers(["--task", "gsm9k", "--file", pairs])


@pytest.mark.parametrize("folder", folders("answers", "eval_sample"), ids=lambda path: path.name)
@pytest.mark.parametrize("task", SCORES)
def test_published_formats(folder, task, capsys):
    name, sample, wider = SCORES[task]
    file = folder / f"{name}.json"
    score_answers(["--task", task, "--file", str(file), "--json"])
    extracted, correct = sample if folder.name == "answers" else wider
    rows = len(json.loads(file.read_text()))
    assert json.loads(capsys.readouterr().out) == {"n": rows, "extracted": extracted, "correct": correct}


def test_the_raw_text_is_read_where_there_is_one(tmp_path, capsys):
    path = tmp_path / "items.jsonl"
    raw = "<|channel|>analysis<|message|>4?<|end|><|start|>assistant<|channel|>commentary<|message|>4<|end|>"
    append_records(path, [replace(record("gsm8k", 0, "analysis4?assistantcommentary4", "4"), raw=raw)])
    append_records(path, [record("gsm8k", 1, "analysis: 4", "4")])
    score_answers(["--task", "gsm8k", "--file", str(path), "--json"])
    assert json.loads(capsys.readouterr().out) == {"n": 2, "extracted": 1, "correct": 1}


def test_what_compares_expressions_is_named(tmp_path, capsys):
    pytest.importorskip("math_verify")
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"output": "$\\boxed{1+x}$", "answer": "x+1"}]))
    score_answers(["--task", "math_500", "--file", str(path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found.pop("comparison").startswith("math-verify ")
    assert found == {"n": 1, "extracted": 1, "correct": 1}
