"""`condenser eval`: its errors come before any model is loaded."""

import json
import subprocess
import sys
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from expert_condenser.checkpoint import load as load_module
from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.cli.eval import results_table
from expert_condenser.cli.main import main
from expert_condenser.evaluation.backends import local
from expert_condenser.evaluation.backends.vllm import VllmBackend
from expert_condenser.evaluation.generation import Answer, Generation
from expert_condenser.ownership import LOCK, Owner, start_of


@pytest.fixture
def no_model(monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(local, "load_model", load)


def eval_(*words):
    return main(["eval", "--model", "testbed", *map(str, words)])


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "gsm8k,gsm9k"], "a task is one of gsm8k, svamp"),
        (["--tasks", "gsm8k", "--data", "missing.json"], "there is no file or directory"),
        (["--tasks", "testbed:gcd,testbed:aiw", "--data", "."], "testbed:aiw are made on the spot, and read no data"),
        (["--tasks", "testbed:gcd", "--split", "train"], "is held out as test and validation; got the split 'train'"),
        (["--tasks", "gsm8k", "--split", "tset"], "a split is one of train, validation, test; got 'tset'"),
        (["--tasks", "testbed:gcd", "--limit", "0"], "--limit is 1 or more; got 0"),
        (["--tasks", "testbed:gcd", "--samples", "3"], "greedy decoding gives one answer"),
        (["--tasks", "testbed:gcd", "--chat_template", "missing.jinja"], "--chat_template is a Jinja file"),
        (["--tasks", "testbed:gcd", "--device", "nonsense"], "--device names a device of this machine"),
        (["--tasks", "testbed:gcd", "--backend", "vllm", "--device", "cpu"], "leave --device out"),
    ],
)
def test_bad_input(words, message, tmp_path, capsys):
    assert eval_(*words, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_model")
def test_a_second_evaluation_in_a_folder_is_refused(tmp_path, capsys):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        owner = {**vars(Owner.here("eval")), "pid": other.pid, "started": start_of(other.pid)}
        (tmp_path / LOCK).write_text(json.dumps(owner))
        assert eval_("--tasks", "testbed:gcd", "--limit", 1, "--out", tmp_path) == 2
        assert f"process {other.pid}" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.usefixtures("no_model")
def test_lm_eval_decodes_greedily(tmp_path, capsys):
    words = ["--tasks", "testbed:gcd", "--limit", 1, "--backend", "lm_eval", "--temperature", 1]
    assert eval_(*words, "--out", tmp_path) == 2
    assert "decodes greedily" in capsys.readouterr().err or "pip install" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
def test_a_file_where_a_folder_is_meant_and_the_reverse(tmp_path, capsys):
    (tmp_path / "file.jsonl").write_text("")
    assert eval_("--tasks", "testbed:gcd", "--out", tmp_path / "file.jsonl") == 2
    assert "--output_dir is a directory" in capsys.readouterr().err
    assert eval_("--tasks", "gsm8k,svamp", "--data", tmp_path / "file.jsonl", "--out", tmp_path / "out") == 2
    assert "a data file is of one task" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
def test_a_template_that_cannot_render(tmp_path, capsys):
    (tmp_path / "broken.jinja").write_text("{% for %}")
    words = ["--tasks", "testbed:gcd", "--limit", 1, "--chat_template", tmp_path / "broken.jinja"]
    assert eval_(*words, "--out", tmp_path / "out") == 2
    assert "the chat template must render every turn" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
def test_malformed_data_is_named_by_its_line(tmp_path, capsys):
    rows = [json.dumps({"instruction": "2+2?", "input": "", "output": "", "answer": "4"}), '{"instruction": ']
    (tmp_path / "gsm8k.jsonl").write_text("\n".join(rows))
    assert eval_("--tasks", "gsm8k", "--data", tmp_path, "--out", tmp_path / "out") == 2
    assert "gsm8k.jsonl, line 2" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
def test_no_chat_template(tmp_path, capsys, monkeypatch):
    tokenizer = load_tokenizer(base_model_path())
    tokenizer.chat_template = None
    monkeypatch.setattr(load_module, "load_tokenizer", lambda path: tokenizer)
    assert eval_("--tasks", "testbed:gcd", "--out", tmp_path / "out") == 2
    assert "chat template" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_on_local_data(tmp_path, capsys):
    rows = [
        {"question": f"Ada has {n} pens. Ben gives Ada 3 more. How many?", "answer": f"#### {n + 3}"} for n in (4, 5)
    ]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--data", tmp_path, "--out", tmp_path / "out", "--max_new_tokens", 24]
    assert eval_("--tasks", "gsm8k,testbed:aiw", "--limit", 2, *words) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: task["n"] for name, task in results["tasks"].items()} == {"gsm8k": 2, "testbed:aiw": 2}
    assert results["throughput"]["new_tokens"] > 0
    assert "testbed:aiw" in capsys.readouterr().out
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_lm_eval_finds_the_same_answers(tmp_path):
    pytest.importorskip("lm_eval")
    words = ["--tasks", "testbed:aiw,testbed:gcd", "--limit", 6]
    assert eval_(*words, "--out", tmp_path / "own") == 0
    assert eval_(*words, "--out", tmp_path / "harness", "--backend", "lm_eval") == 0
    own, harness = (json.loads((tmp_path / name / "results.json").read_text())["tasks"] for name in ("own", "harness"))
    assert {name: task["correct_items"] for name, task in own.items()} == {
        name: task["correct_items"] for name, task in harness.items()
    }
    assert "1" in own["testbed:aiw"]["correct_items"]
    assert (tmp_path / "harness" / "lm_eval" / "results.json").exists()


class FakeVllm:
    """vLLM's interface, as far as the backend uses it."""

    class LLM:
        def __init__(self, **options):
            self.asked = []

        def generate(self, prompts, sampling, use_tqdm):
            self.asked += zip(prompts, sampling, strict=True)
            output = SimpleNamespace(text="#### 3", token_ids=[1, 2], finish_reason="stop")
            return [SimpleNamespace(outputs=[output]) for _ in prompts]

    SamplingParams = SimpleNamespace


def test_vllm_gets_tokens_and_a_seed_for_every_answer(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", FakeVllm)
    tokenizer = load_tokenizer(base_model_path())
    backend = VllmBackend("model", tokenizer)
    sampled = Generation(samples=2, temperature=0.5)
    found = [backend.generate(["<|user|>hi<|end|>"] * 2, 8, sampled, seed) for seed in (0, 1)]
    assert found[0] == [Answer("#### 3", 2, True)] * 2
    prompts, sampling = zip(*backend.model.asked, strict=True)
    assert tokenizer.decode(prompts[0]["prompt_token_ids"]) == "<|user|>hi<|end|>"
    assert len({params.seed for params in sampling}) == 4
    assert {(params.temperature, params.max_tokens) for params in sampling} == {(0.5, 8)}


def test_vllm_is_asked_for_by_name(tmp_path, capsys):
    try:
        import vllm  # noqa: F401
    except ImportError:
        assert eval_("--tasks", "testbed:gcd", "--limit", 1, "--out", tmp_path, "--backend", "vllm") == 2
        assert "pip install vllm" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--tasks", "piqa", "--backend", "vllm"],
            "--mode likelihood needs --backend transformers",
        ),
        (["--tasks", "piqa", "--backend", "lm_eval"], "lm_eval only generates here"),
        (["--tasks", "testbed:gcd", "--limit", 1], "whose questions list options in words"),
        (["--tasks", "piqa", "--data", ".", "--temperature", 1], "mode likelihood decodes nothing"),
    ],
)
def test_likelihood_refuses_before_a_model_is_loaded(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "Which?\n\nSolution1: a\n\nSolution2: b\n\nAnswer format: solution1/solution2"
    row = {"instruction": text, "input": "", "output": "", "answer": "solution1"}
    (tmp_path / "piqa.json").write_text(json.dumps([row]))
    assert eval_(*words, "--mode", "likelihood", "--out", tmp_path / "out") == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def table(**tasks):
    console = Console(record=True, width=100, file=StringIO())
    throughput = {"tokens_per_s": 2.0, "new_tokens": 8}
    console.print(results_table({"tasks": tasks, "throughput": throughput}, "model"))
    return " ".join(console.export_text().split())


def test_what_the_table_says():
    written = {"n": 2, "accuracy": 0.5, "extracted": 2, "cut": 0, "nll": 1.25}
    harness = {"version": "0.4.13", "strict-match": 0.25, "flexible-extract": 0.75}
    shown = table(gsm8k={**written, "lm_eval": harness}, math_500={**written, "comparison": "layout"})
    assert "gsm8k by the rules of lm-eval 0.4.13: strict-match 25.0%, flexible-extract 75.0%" in shown
    assert "math_500 was compared by layout alone: pip install 'expert-condenser[eval]' for algebra" in shown
    assert "8 tokens generated, 2 per second" in shown
    chosen = {**written, "acc": 0.5, "acc_norm": 0.25, "acc_answer": 1.0}
    shown = table(piqa=chosen, boolq={**chosen, "nll": None})
    assert [word for word in shown.split() if word.endswith("%")] == ["50.0%", "25.0%", "100.0%"] * 2
    assert "layout" not in table(math_500={**written, "comparison": "math-verify 0.9.0"})
