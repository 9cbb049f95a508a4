"""Fronts and contrasts of a study, from raw files whose numbers can be worked out by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from expert_condenser.cli.study import run
from expert_condenser.errors import EvaluationError
from expert_condenser.study.cells import recipe_of
from expert_condenser.study.fronts import Scores, fronts_of
from expert_condenser.study.gather import gather
from expert_condenser.study.plan import read_study
from expert_condenser.study.tables import write_tables
from expert_condenser.training.record import RunRecord
from tests.study.test_plan import STUDY, write

NEW, OLD, OTHER = "testbed:gcd", "testbed:aiw", "testbed:chain_sum"
GRID = {"learning_rate": [1e-4, 2e-4]}
TASKS = {NEW: 4, OLD: 4, OTHER: 4}
HALF = math.log(2)


def entry(nlls, correct="1010"):
    """Four items of 2 tokens each, with these nlls per token."""
    return {
        **{"n": 4, "correct": correct.count("1"), "accuracy": correct.count("1") / 4, "extracted": 4, "items": "i"},
        **{"correct_items": correct, "nll": float(np.mean(nlls)), "questions": "q", "prompts": "p"},
        "nll_items": " ".join(f"{2 * nll:.6f}" for nll in nlls),
        "token_items": "2 2 2 2",
    }


def results(folder, new, old, **more):
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {NEW: entry(new), OLD: entry(old), OTHER: entry([0.5] * 4)}
    head = {"format_version": 2, "model": "m", "prompts": "p", "weights": None}
    content = {**head, "generation": {"max_new_tokens": None}, "tasks": tasks, **more}
    (folder / "results.json").write_text(json.dumps(content))


def make(root, points, **changes):
    """A finished study; `points` has the nll of the new and the old task for every arm, rate and seed."""
    path = write(
        root,
        arms={arm: {"method": "sft", "limit": 9 + at} for at, arm in enumerate(points)},
        **{"grid": GRID, "evaluate": {"tasks": TASKS}, "known": [OLD, OTHER], "baseline": "sft", **changes},
    )
    study = read_study(path)
    for cell in study.cells():
        folder = root / cell.folder
        new, old = points[cell.arm][GRID["learning_rate"].index(cell.point["learning_rate"])][cell.seed - 1]
        results(folder, *(value if isinstance(value, list) else [value] * 4 for value in (new, old)))
        recipe = recipe_of(cell, root)
        record = RunRecord.begin(recipe.run.method, recipe.flat())
        cost = {"seconds": 1.0, "cpu_seconds": 1.0, "flops": 10**12, "peak_mb": 100, "resumed": False}
        replace(record, finished=True, steps=4, tokens=99, arm=cell.label, cost=cost).write(folder / "run.json")
    results(root / "base", [3.0] * 4, [1.0] * 4)
    return root


def points(shift=0.0):
    """x of 1/4 and 1/2 at the two rates, y of exp(-rise / 2): half of what is known is the other task, which stays."""
    return [[(2 * HALF + shift, 1.0)] * 2, [(HALF + shift, 1.0 + 2 * HALF)] * 2]


def allowed(**changes):
    return {"allow": ["data"], **changes}


def report_of(root):
    write_tables(root)
    return json.loads((root / "comparison.json").read_text())


def test_the_area_is_that_of_the_points(tmp_path):
    """(1/4, 1) and (1/2, 1/2): 1/4 + 1/8."""
    root = make(tmp_path, {"sft": points(), "ours": points(HALF)}, **allowed())
    fronts = report_of(root)["fronts"]
    assert fronts["arms"]["sft"]["points"] == [pytest.approx([0.25, 1.0]), pytest.approx([0.5, 0.5])]
    assert fronts["arms"]["sft"]["scores"] == pytest.approx([37.5, 37.5])
    assert fronts["arms"]["ours"]["scores"] == pytest.approx([18.75, 18.75]), "half as much is gained"
    assert fronts["arms"]["ours"]["difference"] == pytest.approx(-18.75)
    assert fronts["base"] == pytest.approx([math.exp(-3), 1.0])


def test_what_is_kept_at_nine_tenths_of_the_gain(tmp_path):
    root = make(tmp_path, {"sft": points(), "ours": points(HALF)}, **allowed())
    fronts = report_of(root)["fronts"]
    target = math.exp(-3) + 0.9 * (0.5 - math.exp(-3))
    assert fronts["target"] == pytest.approx(target)
    assert fronts["arms"]["sft"]["kept"] == pytest.approx(1 - 0.5 * (target - 0.25) / 0.25)
    assert fronts["arms"]["ours"]["kept"] is None, "it gains less than that at every rate"


def test_screening_lists_what_is_dropped(tmp_path):
    root = make(tmp_path, {"sft": points(), "ours": points(HALF), "same": points()}, **allowed())
    assert report_of(root)["fronts"]["dropped"] == ["ours"]
    assert "more than 2 sd: ours." in (root / "tables.md").read_text()
    spread = [[(a + sign * 0.8, b) for (a, b), sign in zip(rate, (1, -1), strict=True)] for rate in points(HALF)]
    other = make(tmp_path / "wide", {"sft": points(), "ours": spread}, **allowed())
    assert report_of(other)["fronts"]["dropped"] == []
    assert "more than 2 sd: none." in (other / "tables.md").read_text()


CONTRASTS = {
    "areas": {"arm": "ours", "against": "sft"},
    "task": {"arm": "ours", "against": ["worse", "sft"], "measure": "log_nll"},
    "known": {"arm": "ours", "against": "sft", "measure": "nll", "of": "learnt before"},
    "right": {"arm": "ours", "against": "sft", "measure": "accuracy", "of": NEW},
}


def test_contrasts_are_paired_over_seeds(tmp_path):
    """Items that are all alike have no part in the error: what is left are the paired t-tests over seeds."""
    ours = [[(2 * HALF + 0.1, 1.1), (2 * HALF + 0.3, 1.5)], [(HALF + 0.1, 2.0), (HALF + 0.4, 2.1)]]
    arms = {"sft": points(), "ours": ours, "worse": points(1.0)}
    report = report_of(make(tmp_path, arms, contrasts=CONTRASTS, **allowed()))
    found = {each["name"]: each for each in report["contrasts"]}
    rise = (0.1 + 2.0 - 1 - 2 * HALF) / 2 / 2, (0.5 + 2.1 - 1 - 2 * HALF) / 2 / 2
    assert found["known"]["difference"] == pytest.approx(np.mean(rise), abs=1e-6)
    paired = stats.ttest_1samp(rise, 0)
    assert found["known"]["p"] == pytest.approx(paired.pvalue, rel=1e-4)
    assert found["known"]["item_share"] == pytest.approx(0, abs=1e-6)
    nlls = [(2 * HALF + 0.1, HALF + 0.1), (2 * HALF + 0.3, HALF + 0.4)]
    logs = [np.mean(np.log(own)) - np.mean(np.log([2 * HALF, HALF])) for own in nlls]
    assert found["task"]["against"] == "sft", "the better of the two"
    assert found["task"]["difference"] == pytest.approx(np.mean(logs), abs=1e-6)
    tested = [each["p"] for each in found.values() if each["p"] is not None]
    assert found["right"]["verdict"] == "not tested: no spread"
    assert min(each["holm_p"] for each in found.values() if each["p"]) == pytest.approx(min(1, 4 * min(tested)))
    areas = Scores(gather(tmp_path))
    own, other = (areas.of(arm, "hypervolume", NEW, drawn=False)[0] for arm in ("ours", "sft"))
    assert found["areas"]["difference"] == pytest.approx((own - other).mean())


def test_items_have_their_part(tmp_path):
    """All seeds differ from sft on one item of four alone: what four others would show is uncertain, seeds are not."""
    uneven = [[([2 * HALF + 1, *[2 * HALF] * 3], 1.0)] * 2, [([HALF + 1, *[HALF] * 3], 1.0)] * 2]
    arms = {"sft": points(), "ours": uneven}
    contrasts = {"task": {"arm": "ours", "against": "sft", "measure": "nll"}}
    (found,) = report_of(make(tmp_path, arms, contrasts=contrasts, **allowed()))["contrasts"]
    assert (found["difference"], found["sd"]) == (pytest.approx(0.25, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert found["item_share"] == pytest.approx(1)
    assert found["error"] == pytest.approx(math.sqrt(3 / 16 / 4), rel=0.1), "the variance of 1, 0, 0, 0 over four"


def test_the_same_draw_for_all_arms(tmp_path):
    """Arms that are equal on every item differ by nothing in any draw, however uneven the items are."""
    uneven = [[([3.0, 1.0, 0.5, 0.1], [1.0, 2.0, 3.0, 4.0])] * 2] * 2
    (found,) = report_of(
        make(tmp_path, {"sft": uneven, "ours": uneven}, contrasts={"a": CONTRASTS["areas"]}, **allowed())
    )["contrasts"]
    assert (found["difference"], found["p"]) == (0.0, None)


def test_files_are_the_same_again(tmp_path):
    root = make(tmp_path, {"sft": points(), "ours": points(0.1)}, contrasts=CONTRASTS | {"task": CONTRASTS["areas"]},
                **allowed())  # fmt: skip
    run(["tables", str(root)])
    before = {name: (root / name).read_bytes() for name in ("tables.md", "comparison.json", "fronts.svg")}
    run(["tables", str(root)])
    assert {name: (root / name).read_bytes() for name in before} == before
    assert before["fronts.svg"].count(b"ours") >= 1
    assert "| right | ours 50.00 | sft 50.00 | accuracy of testbed:gcd, points |" in before["tables.md"].decode()


def test_a_study_of_contrasts_without_a_baseline_compares_by_them_alone(tmp_path):
    root = make(tmp_path, {"sft": points(), "ours": points()}, contrasts=CONTRASTS | {"task": CONTRASTS["areas"]},
                baseline=None, **allowed())  # fmt: skip
    assert set(report_of(root)) == {"seeds", "contrasts", "fronts"}
    assert not (root / "plot.png").exists()


def test_without_a_grid_or_an_nll_there_is_no_front(tmp_path):
    gathered = gather(make(tmp_path, {"sft": points(), "ours": points()}, **allowed()))
    assert fronts_of(gathered, Scores(gathered)) is not None
    plain = replace(gathered, study=replace(gathered.study, grid={}))
    assert fronts_of(plain, Scores(plain)) is None
    lost = replace(gathered, base={**gathered.base, NEW: replace(gathered.base[NEW], nll=None)})
    assert fronts_of(lost, Scores(lost)) is None


@pytest.mark.parametrize(
    ("contrasts", "message"),
    [
        ({"a": {"arm": "ours"}}, "a contrast has arm, against"),
        ({"a": {"arm": "ours", "against": "sft", "on": 3}}, "a contrast has arm, against"),
        ({"a": {"arm": "ours", "against": "none"}}, "between arms .* has none"),
        ({"a": {"arm": "ours", "against": "sft", "measure": "bleu"}}, "measure is one of hypervolume"),
        ({"a": {"arm": "ours", "against": "sft", "of": NEW}}, "leave `of` out"),
        ({"a": {"arm": "ours", "against": "sft", "measure": "nll", "of": "all"}}, "a task or a group"),
        ({"a": 3}, "a contrast has arm"),
    ],
)
def test_wrong_contrasts(tmp_path, contrasts, message):
    with pytest.raises(EvaluationError, match=message):
        make(tmp_path, {"sft": points(), "ours": points()}, contrasts=contrasts)


def test_an_area_needs_a_grid(tmp_path):
    path = write(tmp_path, contrasts={"a": {"arm": "two", "against": "sft"}})
    with pytest.raises(EvaluationError, match="the study has no grid"):
        read_study(path)
    write(tmp_path, contrasts={"a": {"arm": "two", "against": "sft", "measure": "nll"}})
    assert read_study(path).contrasts[0].against == ("sft",)


def test_what_is_learnt_and_what_is_known(tmp_path):
    study = read_study(write(tmp_path, evaluate={"tasks": TASKS}))
    assert (study.learn_tasks, study.known_tasks, study.learnt) == ([NEW], [OLD, OTHER], NEW)
    study = read_study(write(tmp_path, evaluate={"tasks": TASKS}, learn=[NEW, OTHER], known=[OLD]))
    assert study.named_groups == {"learnt now": [NEW, OTHER], "learnt before": [OLD]}
    assert study.learnt == "learnt now"
    with pytest.raises(EvaluationError, match="learn is a list of tasks"):
        read_study(write(tmp_path, evaluate={"tasks": TASKS}, learn=["testbed:none"]))
    assert STUDY["evaluate"]["tasks"].keys() == {NEW}
