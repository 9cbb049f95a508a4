"""The report of a study, from raw files whose numbers can be worked out by hand; and recipes that a training reads."""

import yaml

from expert_condenser.report.page.comparisons import Terms, report_of_runs
from expert_condenser.report.page.recipes import recipe_of
from expert_condenser.report.page.runs import read_files
from expert_condenser.report.page.studies import report_of_study
from expert_condenser.study.worker import keep_results
from expert_condenser.training.parse import parse_recipe
from tests.report.made import make_run
from tests.study.test_fronts import NEW, allowed, make, points


def noisy(by):
    """The points of the two seeds, apart from each other."""
    (first, second), (third, fourth) = points(by)
    return [[first, (second[0] + 0.01, second[1])], [third, (fourth[0] + 0.02, fourth[1])]]


def unlike():
    """Better than `noisy(0)` at one seed, worse at the other."""
    return [[(a, b + (-0.03, 0.02)[at]) for at, (a, b) in enumerate(pair)] for pair in noisy(0)]


def test_a_larger_front_is_the_answer_and_the_figure_has_its_points(tmp_path):
    report = report_of_study(make(tmp_path, {"sft": noisy(0), "better": noisy(-0.3)}, **allowed()))
    assert report.answer.headline == "better won: its front is larger than sft's (2 seeds)."
    assert report.answer.details[0].startswith("The largest front is that of better, ")
    assert report.answer.details[1].startswith("Larger: better +")
    sft, better, base = report.front.traces
    assert [trace["name"] for trace in report.front.traces] == ["sft", "better", "base"]
    assert [round(y, 6) for y in sft["y"]] == [1.0, 0.5]
    assert all(a > b for a, b in zip(better["x"], sft["x"], strict=True))
    assert base["x"] != sft["x"]
    assert len(report.front.table.rows) == 5
    assert [run.label for run in report.runs] == ["sft learning_rate=0.0001", "better learning_rate=0.0001"]
    assert report.reproduce["command"].startswith("condenser study study.yaml")
    assert yaml.safe_load(report.reproduce["text"])["baseline"] == "sft"


def test_equal_fronts_are_no_difference(tmp_path):
    report = report_of_study(make(tmp_path, {"sft": noisy(0), "other": unlike()}, **allowed()))
    assert report.answer.headline == "No front is found to be larger than sft's (2 seeds)."
    assert report.answer.details[1].startswith("No difference found: other ")


def test_the_best_of_many_arms_is_corrected_for_their_number(tmp_path):
    """One arm that alone would be larger is not, among others: its p is multiplied by their number."""

    def answer(folder, others):
        root = tmp_path / folder
        root.mkdir()
        more = {f"other{number}": unlike() for number in range(others)}
        study = make(root, {"sft": noisy(0), "better": spread, **more}, **allowed())
        return report_of_study(study).answer.headline

    spread = [[(a - 0.3 - 0.015 * at, b) for at, (a, b) in enumerate(pair)] for pair in noisy(0)]
    assert answer("alone", 0).startswith("better won:")
    assert answer("among", 5).startswith("No front is found to be larger")


def test_of_one_seed_a_study_says_nothing_about_methods(tmp_path):
    report = report_of_study(make(tmp_path, {"sft": points(), "better": points(-0.3)}, **allowed(seeds=[1])))
    assert report.answer.headline.startswith("One seed: no statement about methods.")


def test_contrasts_are_answered_with_their_verdicts(tmp_path):
    contrasts = {"forgets less": {"arm": "better", "against": "sft", "measure": "nll", "of": NEW}}
    arms = {"sft": noisy(0), "better": noisy(-0.3)}
    report = report_of_study(make(tmp_path, arms, **allowed(contrasts=contrasts)))
    assert report.answer.headline.startswith("forgets less: ")
    assert any(table.caption.startswith("Contrasts") for table in report.tables)


def test_the_recipe_of_a_page_is_read_as_that_of_the_run(tmp_path):
    root = make(tmp_path, {"sft": points()}, **allowed())
    run = read_files(next(path.parent for path in sorted(root.rglob("run.json"))))
    path = tmp_path / "recipe.yaml"
    path.write_text(text := recipe_of(run)["text"])
    assert text.startswith("# Whether these were set is not recorded: eos_token, pad_token\n")
    assert parse_recipe(["--config", str(path)]).flat() == run.record.config
    changed = parse_recipe(["--config", str(path), "--learning_rate", "0.5"]).flat()
    assert {name for name in changed if changed[name] != run.record.config[name]} == {"learning_rate"}


def test_a_study_keeps_what_a_page_shows_and_no_weights(tmp_path):
    folder = make_run(tmp_path / "run")
    for place in ("sparsify/final", "sparsify/checkpoint-3", "model"):
        (folder / place).mkdir()
        (folder / place / "model.safetensors").write_bytes(b"weights")
    (folder / "sparsify" / "README.md").write_text("of the weights")
    before = read_files(folder)
    keep_results(folder, ("sparsify", "condense"))
    assert not list(folder.rglob("model.safetensors"))
    assert sorted(path.name for path in (folder / "sparsify").iterdir()) == ["routing.safetensors", "usage.safetensors"]
    assert read_files(folder).log.counts.equal(before.log.counts)
    assert read_files(folder).routing.keys() == before.routing.keys()


def test_a_page_shows_twelve_runs_and_names_the_others(tmp_path):
    runs = [make_run(tmp_path / f"{number:02}", seed=number) for number in range(13)]
    report = report_of_runs(runs, Terms())
    assert len({run.label for run in report.runs}) == 12
    assert str(runs[12]) in report.notes[-1]
    assert report_of_runs(runs[:12], Terms()).notes == []
