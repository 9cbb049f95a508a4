"""Reading runs, grouping them to arms, and what is refused."""

import json

import numpy as np
import pytest

from expert_condenser.comparison.arms import _BOOKKEEPING, _BOOKKEEPING_PREFIXES, SEEDS, read_run
from expert_condenser.comparison.runs import read_design
from expert_condenser.errors import ExpertCondenserError
from expert_condenser.training.folder import _MAY_CHANGE
from expert_condenser.training.recipe import Recipe

CONFIG = {
    "data": "rows.jsonl",
    "split": "train",
    "limit": None,
    "data_format": "auto",
    "answer_style": "auto",
    "model": "base",
    "learning_rate": 1e-4,
    "num_condensers": "2",
}


def write_run(folder, method="sft", seed=0, *, tasks=None, record=None, results=None, **options):
    """A finished run; `tasks` are lists of 0 and 1, or entries of `results.json`."""
    folder.mkdir(parents=True)
    config = {**CONFIG, "method": method, "seed": seed, "output_dir": str(folder), **options}
    head = {
        **{"format_version": 2, "method": method, "config": config, "versions": {}, "git_commit": None},
        **{"steps": 200, "tokens": 9000, "finished": True},
    }
    entries = {name: entry(value) for name, value in (tasks or {"gsm8k": [1, 0, 1, 0]}).items()}
    answers = {"model": "m", "prompts": "p1", "generation": {"samples": 1}, "tasks": entries}
    (folder / "run.json").write_text(json.dumps({**head, **(record or {})}))
    (folder / "results.json").write_text(json.dumps({**answers, **(results or {})}))
    return folder


NEW = {"format_version": 2, "generation": {"backend": "transformers", "dtype": "float32"}}
"""What results of today have, and those of before 0.2 had not."""


def entry(value, **fields):
    if isinstance(value, dict):
        return value
    digits = "".join(str(int(digit)) for digit in value)
    ones = digits.count("1")
    return {
        "n": len(digits),
        "correct": ones,
        "accuracy": ones / len(digits),
        "extracted": len(digits),
        "nll": 1.5,
        "items": f"items-{len(digits)}",
        "correct_items": digits,
        **fields,
    }


@pytest.fixture
def two(tmp_path):
    """Two arms of two seeds; `two(method="condenser", seed=1, ...)` changes one run."""

    def make(**changes):
        changed = (changes.pop("method", "condenser"), changes.pop("seed", None))
        folders = []
        for method in ("sft", "condenser"):
            for seed in (0, 1):
                alike = method == changed[0] and changed[1] in (None, seed)
                folders.append(write_run(tmp_path / f"{method}{seed}", method, seed, **(changes if alike else {})))
        return folders

    return make


def refusal(folders, **options):
    with pytest.raises(ExpertCondenserError) as caught:
        read_design(folders, **options)
    return str(caught.value)


def test_one_run(tmp_path):
    folder = write_run(tmp_path / "a", "condenser", 7, tasks={"gsm8k": [1, 1, 0], "boolq": entry([0, 1], nll=None)})
    run = read_run(folder)
    assert (run.method, run.name, run.seed, run.steps, run.tokens) == ("condenser", "condenser", 7, 200, 9000)
    assert run.tasks["gsm8k"].correct.tolist() == [True, True, False]
    assert run.tasks["gsm8k"].accuracy == pytest.approx(2 / 3)
    assert (run.tasks["gsm8k"].nll, run.tasks["boolq"].nll) == (1.5, None)


def test_equal_runs_make_a_design(two):
    design = read_design(two())
    assert list(design.arms) == ["sft", "condenser"]
    assert (design.seeds, design.tasks, design.paired_items, design.notes) == ([0, 1], ["gsm8k"], True, [])
    assert [run.seed for run in design.arms["sft"].runs.values()] == [0, 1]


def test_arms_are_named_by_what_differs(tmp_path):
    folders = [write_run(tmp_path / "sft", "sft", 0)]
    for count in ("2", "3"):
        folders.append(write_run(tmp_path / f"c{count}", "condenser", 0, num_condensers=count))
    assert list(read_design(folders).arms) == ["sft", "condenser num_condensers=2", "condenser num_condensers=3"]
    folders[1:] = [write_run(tmp_path / f"lr{rate}", "condenser", 0, learning_rate=rate) for rate in (1e-4, 2e-4)]
    assert list(read_design(folders).arms)[1:] == ["condenser learning_rate=0.0001", "condenser learning_rate=0.0002"]
    folders[2] = write_run(tmp_path / "named", "condenser", 0, learning_rate=2e-4, record={"arm": "twice as fast"})
    assert list(read_design(folders).arms) == ["sft", "condenser", "twice as fast"]


def test_seeds_and_bookkeeping_do_not_make_an_arm(two):
    design = read_design(
        two(seed=1, data_seed=5, selection_seed=3, logging_steps=7, save_strategy="no", report_to=["x"])
    )
    assert list(design.arms) == ["sft", "condenser"]


def test_runs_that_saw_their_rows_in_other_orders_are_noted(two, tmp_path):
    """The seed decides the order of the rows, unless `data_seed` does."""
    design = read_design(two(seed=1, data_seed=5))
    assert design.notes == [
        "paired by seed, but the runs of seed 1 saw their rows in different orders: "
        "data_seed = 1 in sft; 5 in condenser"
    ]
    folders = [write_run(tmp_path / f"{m}-{s}", m, s, data_seed=7) for m in ("sft", "condenser") for s in (0, 1)]
    assert read_design(folders).notes == [], "control: another order, and the same in both arms"
    same = [write_run(tmp_path / f"named-{m}", m, 3, data_seed=d) for m, d in (("sft", None), ("condenser", 3))]
    assert read_design(same).notes == [], "control: the order that the seed gives"


@pytest.mark.parametrize("option", ["weight_decay", "bf16", "max_length", "per_device_train_batch_size"])
def test_what_is_computed_makes_an_arm(tmp_path, option):
    folders = [write_run(tmp_path / str(value), "sft", 0, **{option: value}) for value in (1, 2)]
    assert list(read_design(folders).arms) == [f"sft {option}=1", f"sft {option}=2"]


def test_ignored_options_exist_and_include_what_a_resume_may_change(tmp_path):
    known = set(Recipe.of(data="x", output_dir=str(tmp_path), use_cpu=True, bf16=False).flat())
    ignored = SEEDS | _BOOKKEEPING
    assert ignored <= known
    assert all(any(name.startswith(prefix) for name in known) for prefix in _BOOKKEEPING_PREFIXES)
    assert {n for n in _MAY_CHANGE if n not in ignored and not n.startswith(_BOOKKEEPING_PREFIXES)} == set()
    kept = {name for name in known - ignored if not name.startswith(_BOOKKEEPING_PREFIXES)}
    assert {"learning_rate", "num_condensers", "data", "dtype", "max_steps", "lora", "bias_step", "model"} <= kept


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("steps", {"record": {"steps": 100}}, "steps: 200 in sft; 100 in condenser"),
        ("tokens", {"record": {"tokens": 1}, "seed": 1}, "tokens: 9000 in sft; 9000 (seed 0), 1 (seed 1) in condenser"),
        ("data", {"data": "other.jsonl"}, "data: data = rows.jsonl in sft; other.jsonl in condenser"),
        ("data", {"limit": 50}, "data: limit = None in sft; 50 in condenser"),
        ("base", {"model": "b"}, "base: base in sft; b in condenser"),
        ("prompts", {"results": {"prompts": "p2"}}, "prompts: p1 in sft; p2 in condenser"),
        (
            "items",
            {"tasks": {"gsm8k": [1, 0]}},
            "items: gsm8k: 4 items (items-4) in sft; 2 items (items-2) in condenser",
        ),
    ],
)
def test_unequal_runs_are_refused_unless_allowed(two, kind, changes, words):
    folders = two(**changes)
    message = refusal(folders)
    assert words in message
    assert f"--allow {kind}." in message
    others = {"steps", "tokens", "data", "base", "prompts", "items", "seeds"} - {kind}
    assert words in refusal(folders, allow=others)
    design = read_design(folders, allow=[kind])
    assert design.notes == [f"allowed to differ: {words}"]
    assert design.paired_items == (kind != "items")


def test_everything_that_differs_is_said_at_once(two):
    results = {"prompts": "p2", "generation": {"samples": 1, "max_new_tokens": 64}}
    message = refusal(two(record={"steps": 100}, results=results))
    assert "steps: 200 in sft; 100 in condenser" in message
    assert "max_new_tokens = None in sft; 64 in condenser" in message
    assert "--allow steps,prompts." in message


def test_tokens_may_differ_between_seeds_but_prompts_may_not(tmp_path):
    def folders(name, **changes):
        return [
            write_run(tmp_path / f"{name}-{method}{seed}", method, seed, **(changes if seed else {}))
            for method in ("sft", "condenser")
            for seed in (0, 1)
        ]

    assert read_design(folders("tokens", record={"tokens": 8999})).notes == []
    assert "p1 (seed 0), p2 (seed 1) in sft" in refusal(folders("prompts", results={"prompts": "p2"}))


def test_seeds_that_not_all_arms_have(two, tmp_path):
    folders = [*two(), write_run(tmp_path / "sft2", "sft", 2)]
    assert "seeds: 0, 1, 2 in sft; 0, 1 in condenser" in refusal(folders)
    design = read_design(folders, allow=["seeds"])
    assert design.seeds == [0, 1]
    assert all(list(arm.runs) == [0, 1] for arm in design.arms.values())
    assert "no seed is in all arms: 0 in sft; 1 in condenser" in refusal([folders[0], folders[3]], allow=["seeds"])


def test_too_few_and_doubled_runs(two):
    folders = two()
    assert "at least two methods; got no run" in refusal([])
    assert "at least two methods; got sft" in refusal(folders[:2])
    message = refusal([*folders, folders[0]])
    assert f"sft with seed 0 is in {folders[0]} and in {folders[0]}" in message


def test_unknown_words(two):
    folders = two()
    assert "every run has results on gsm8k; got boolq" in refusal(folders, tasks=["boolq"])
    assert "--allow takes steps, tokens, data, base, prompts, items, seeds; got luck" in refusal(
        folders, allow=["luck"]
    )


def test_tasks_that_not_all_runs_have_are_left_out_or_refused(two):
    folders = two(tasks={"gsm8k": [1, 0, 1, 1], "boolq": [1, 0]})
    design = read_design(folders)
    assert design.tasks == ["gsm8k"]
    assert design.notes[0] == "left out, since not every run has results on it: boolq"
    assert "got boolq" in refusal(folders, tasks=["gsm8k", "boolq"])


def evaluated(digits, prompts):
    """A task's entry in the results of today."""
    return entry(digits, prompts=prompts, questions="q")


def test_runs_with_other_tasks_compare_on_those_they_share(tmp_path):
    """The fingerprint of all prompts differs with the tasks; that of each task decides."""
    few = {"gsm8k": evaluated([1, 0], "g")}
    more = {**few, "boolq": evaluated([1, 0, 1], "b")}

    def folders(name, changed):
        return [
            write_run(tmp_path / name / "sft", "sft", tasks=few, results={**NEW, "prompts": "p1"}),
            write_run(tmp_path / name / "condenser", "condenser", tasks=changed, results={**NEW, "prompts": "p2"}),
        ]

    design = read_design(folders("same", more))
    assert design.tasks == ["gsm8k"]
    assert design.notes == ["left out, since not every run has results on it: boolq"]
    other = {**more, "gsm8k": evaluated([1, 0], "another template")}
    assert "prompts: gsm8k: g in sft; another template in condenser" in refusal(folders("other", other))


def test_a_difference_in_a_task_that_is_not_compared_is_none(tmp_path):
    tasks = [{"gsm8k": evaluated([1, 0], "g"), "boolq": evaluated([1, 0, 1], b)} for b in ("b", "other")]
    folders = [
        write_run(tmp_path / method, method, tasks=own, results={**NEW, "prompts": prompts})
        for method, own, prompts in zip(("sft", "condenser"), tasks, ("p1", "p2"), strict=True)
    ]
    assert read_design(folders, tasks=["gsm8k"]).notes == []
    assert "prompts: boolq: b in sft; other in condenser" in refusal(folders)


def test_what_old_results_do_not_say_is_noted_and_what_both_say_decides(two, tmp_path):
    """Old results beside new ones, on the same tasks: one fingerprint of all prompts, no dtype, no backend."""
    tasks = {"gsm8k": evaluated([1, 0, 1, 0], "g") | {"items": "items-4"}}
    folders = two(tasks=tasks, results=NEW)
    assert read_design(folders).notes == [
        f"{key} is unknown, and taken as equal, in results from before 0.2: sft" for key in ("dtype", "backend")
    ]
    bf16 = {**NEW, "generation": {**NEW["generation"], "dtype": "bfloat16"}}
    folders[1] = write_run(tmp_path / "half", "sft", 1, tasks=tasks, results=bf16)
    assert "dtype = unknown (seed 0), bfloat16 (seed 1) in sft; float32 in condenser" in refusal(folders)
    folders[1] = write_run(tmp_path / "asked", "sft", 1, results={"prompts": "p2"})
    assert "prompts: p1 (seed 0), p2 (seed 1) in sft; p1 in condenser" in refusal(folders)


def test_old_results_on_other_tasks(two, tmp_path):
    folders = two(tasks={"gsm8k": [1, 0, 1, 1], "boolq": [1, 0]}, results={"prompts": "p2"})
    (note,) = [note for note in read_design(folders).notes if not note.startswith("left out")]
    assert note.startswith("prompts are known of all tasks together only")
    assert note.endswith("in results from before 0.2: sft, condenser")
    hot = {"generation": {"samples": 2}}
    folders[1] = write_run(tmp_path / "hot", "sft", 1, results=hot)
    assert "prompts: samples = 1 (seed 0), 2 (seed 1) in sft; 1 in condenser" in refusal(folders)


def test_runs_from_before_the_record_had_a_version(two, tmp_path):
    """`run.json` of version 1 has the option names of then, and options of every method."""
    folders = two()
    old = {**CONFIG, "model_name_or_path": "base", "dataset": "rows.jsonl", "dataset_split": "train", "mixer": "eager"}
    config = {name: value for name, value in old.items() if name not in ("model", "data", "split")}

    def with_old(dataset):
        record = {"format_version": 1, "config": {**config, "dataset": dataset, "method": "sft", "seed": 0}}
        return [write_run(tmp_path / dataset, "sft", 0, record=record), *folders[2:3]]

    design = read_design(with_old("rows.jsonl"))
    assert (list(design.arms), design.notes) == (["sft", "condenser"], [])
    assert "data: data = x.jsonl in sft; rows.jsonl in condenser" in refusal(with_old("x.jsonl"))


def test_results_of_a_newer_format(tmp_path):
    folder = write_run(tmp_path / "run", results={"format_version": 3})
    with pytest.raises(ExpertCondenserError, match="has format_version 3, and this release reads up to 2"):
        read_run(folder)


def test_no_task_in_common(two):
    assert "there is none among ['gsm8k', 'boolq']" in refusal(two(tasks={"boolq": [1, 0]}))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("run.json", None, "has no run.json: train it"),
        ("results.json", None, "has no results.json: evaluate it first"),
        (
            "run.json",
            '{\n"method": "sft",\n oops}',
            "run.json must be JSON: Expecting property name enclosed in double quotes: line 3",
        ),
        ("results.json", "[]", "results.json holds a JSON object; got a list"),
        ("run.json", b"\xff\xfe", "run.json must be a readable file of UTF-8"),
        ("results.json", '{"prompts": "p"}', "results.json has 'tasks', of type dict; it is missing"),
        ("results.json", '{"prompts": "p", "tasks": {"a": 1}}', "results.json has 'a', of type dict; got 1"),
        (
            "run.json",
            '{"finished": true, "method": "sft", "config": {}}',
            "run.json has 'seed', of type int; it is missing",
        ),
        (
            "run.json",
            '{"finished": true, "method": "sft", "config": {"seed": true}}',
            "has 'seed', of type int; got True",
        ),
        (
            "run.json",
            '{"finished": true, "method": "sft", "config": {}, "arm": 3}',
            "run.json has 'arm', of type str; got 3",
        ),
        ("results.json", '{"tasks": {}, "prompts": "p", "generation": []}', "has 'generation', of type dict; got []"),
        ("run.json", '{"method": "sft", "config": {"seed": 1}}', "only finished runs are compared"),
        ("run.json", '{"method": "sft", "config": {}, "finished": "yes"}', "has 'finished', of type bool; got 'yes'"),
    ],
)
def test_damaged_files(tmp_path, name, text, words):
    path = write_run(tmp_path / "run") / name
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExpertCondenserError) as caught:
        read_run(path.parent)
    assert words in str(caught.value)
    assert str(path.parent) in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"correct_items": "0120"}, "a 0 or 1 for each of n items"),
        ({"correct_items": ""}, "a 0 or 1 for each of n items"),
        ({"n": 5}, "beside {'n': 5, 'correct': 2}"),
        ({"correct": 3}, "beside {'n': 4, 'correct': 3}"),
        ({"correct_items": None}, "'correct_items', of type str; got None"),
        ({"nll": 2**80 * 10**300}, "nll is a finite number or null"),
        ({"nll": float("nan")}, "nll is a finite number or null"),
        ({"nll": "1"}, "nll is a finite number or null"),
        ({"items": 3}, "'items', of type str; got 3"),
        ({"nll_items": "1.0 2.0 0.5"}, "nll_items has a finite number for each of 4 items"),
        ({"nll_items": "1.0 2.0 0.5 nan"}, "nll_items has a finite number for each of 4 items"),
        ({"token_items": "1 2 3 four"}, "token_items has a finite number for each of 4 items"),
        ({"correct_samples": [2, 0], "samples": 4}, "has 4 samples of each. Evaluate the run with one."),
    ],
)
def test_damaged_tasks(tmp_path, fields, words):
    folder = write_run(tmp_path / "run", tasks={"gsm8k": entry([1, 0, 1, 0], **fields)})
    with pytest.raises(ExpertCondenserError) as caught:
        read_run(folder)
    assert words in str(caught.value)
    assert "results.json" in str(caught.value)


def test_a_file_is_no_run(tmp_path):
    folder = write_run(tmp_path / "run")
    with pytest.raises(ExpertCondenserError, match="a run is a directory"):
        read_run(folder / "run.json")
    assert isinstance(read_run(folder).tasks["gsm8k"].correct, np.ndarray)
