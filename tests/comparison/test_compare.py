"""`condenser compare`: the numbers in its report, its words, its formats, and its refusals."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from expert_condenser.cli.compare import run as compare
from expert_condenser.cli.main import main
from expert_condenser.comparison.compare import compare_runs
from expert_condenser.comparison.runs import read_design
from expert_condenser.comparison.simulation import Study, calibrate, simulate
from expert_condenser.comparison.statistics import hierarchical_bootstrap
from expert_condenser.errors import EvaluationError
from tests.comparison.test_runs import entry, write_run

METHODS = {"baseline": "sft", "method 1": "condenser", "method 2": "densemixer"}


def write_study(folder, study, tasks=("gsm8k", "boolq"), seed=0):
    """The runs of a simulated study, evaluated on `tasks`; what each solved."""
    rng = np.random.default_rng(seed)
    solved = {task: simulate(rng, study) for task in tasks}
    folders = [
        write_run(
            folder / f"{METHODS[arm]}-{run}",
            METHODS[arm],
            run,
            tasks={task: entry(arms[arm][run], nll=1.0 + 0.1 * run * len(arm)) for task, arms in solved.items()},
        )
        for arm in solved[tasks[0]]
        for run in range(study.seeds)
    ]
    return folders, solved


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"), Study(seeds=6, items=120, methods=2, effect=0.8))


def words(folders, *more):
    return [*map(str, folders), "--resamples", "500", *more]


def row_of(report, metric, arm):
    (row,) = (row for row in report["rows"] if (row["metric"], row["arm"]) == (metric, arm))
    return row


def report_of(folders, *more, capsys):
    compare(words(folders, "--format", "json", *more))
    return json.loads(capsys.readouterr().out)


def test_every_number_of_a_row(study):
    folders, solved = study
    report = compare_runs(read_design(folders), resamples=500)
    assert (report["baseline"], report["unit"], report["seeds"]) == ("sft", "points", list(range(6)))
    assert [row["metric"] for row in report["rows"]] == ["gsm8k"] * 3 + ["boolq"] * 3 + ["average"] * 3
    method, baseline = solved["gsm8k"]["method 1"], solved["gsm8k"]["baseline"]
    first, second = 100 * method.mean(1), 100 * baseline.mean(1)
    row = row_of(report, "gsm8k", "condenser")
    paired = stats.ttest_rel(first, second)
    interval = paired.confidence_interval(0.95)
    assert row["mean"] == pytest.approx(first.mean())
    assert row["difference"] == pytest.approx((first - second).mean())
    assert row["t_p"] == pytest.approx(paired.pvalue)
    assert row["t_interval"] == pytest.approx({"low": interval.low, "high": interval.high})
    own = stats.t.interval(0.95, 5, loc=first.mean(), scale=first.std(ddof=1) / math.sqrt(6))
    assert row["mean_interval"] == pytest.approx({"low": own[0], "high": own[1]})
    boot = hierarchical_bootstrap([method.astype(int) - baseline], np.random.default_rng(0), resamples=500)
    assert row["bootstrap_interval"] == pytest.approx({"low": 100 * boot.low, "high": 100 * boot.high})
    tests = [
        stats.binomtest(int((a & ~b).sum()), int((a ^ b).sum())).pvalue for a, b in zip(method, baseline, strict=True)
    ]
    assert row["mcnemar_p"] == pytest.approx(tests)
    assert row["mcnemar_below_alpha"] == sum(p <= 0.05 for p in tests)
    other = row_of(report, "gsm8k", "densemixer")
    assert row["holm_p"] == pytest.approx(2 * min(row["t_p"], other["t_p"]))
    assert other["holm_p"] == pytest.approx(max(row["holm_p"], other["t_p"]))
    assert report["notes"] == []


def test_the_effect_is_found_and_the_method_without_one_is_not(study):
    report = compare_runs(read_design(study[0]), resamples=500)
    assert [row_of(report, name, "condenser")["verdict"] for name in ("gsm8k", "boolq", "average")] == ["better"] * 3
    other = row_of(report, "average", "densemixer")
    seen = other["minimum_detectable"]
    assert other["verdict"] == f"no difference found (would have seen >= {seen:.1f} points)"
    swapped = compare_runs(read_design(study[0]), baseline="condenser", resamples=500)
    assert row_of(swapped, "average", "sft")["verdict"] == "worse"
    assert row_of(swapped, "average", "condenser")["difference"] is None


def test_means_of_tasks_are_unweighted(tmp_path):
    folders = [
        write_run(
            tmp_path / f"{name}{seed}", name, seed, tasks={"a": [good] * 4, "b": [0] * (9 - seed) + [1] * (1 + seed)}
        )
        for name, good in (("sft", 0), ("condenser", 1))
        for seed in (0, 1)
    ]
    report = compare_runs(read_design(folders, allow=["items"]), groups={"twice": ["a", "b"], "one": ["b"]})
    assert [
        row_of(report, name, "condenser")["mean"] for name in ("a", "b", "average", "twice", "one")
    ] == pytest.approx([100.0, 15.0, 57.5, 57.5, 15.0])
    assert row_of(report, "average", "condenser")["difference"] == pytest.approx(50.0)
    assert row_of(report, "average", "condenser")["mcnemar_p"] is None
    assert row_of(report, "one", "condenser")["mcnemar_p"] == [1.0, 1.0]


def test_no_spread_gives_no_p_and_says_so(tmp_path, capsys):
    folders = [
        write_run(tmp_path / f"{name}{seed}", name, seed, tasks={"a": [1, good, seed, 0]})
        for name, good in (("sft", 0), ("condenser", 1))
        for seed in (0, 1)
    ]
    report = report_of(folders, capsys=capsys)
    row = row_of(report, "a", "condenser")
    assert (row["difference"], row["t_p"], row["holm_p"], row["t_interval"]) == (25.0, None, None, None)
    assert (row["effect_size"], row["minimum_detectable"]) == (None, None)
    assert row["verdict"] == "not tested: the same difference at every seed"
    assert (
        "the difference is the same at every seed, so the t-test has no answer (—): condenser on a" in report["notes"]
    )
    compare(words(folders))
    table = capsys.readouterr().out
    assert "nan" not in table.lower().replace("condenser", "")
    assert "—" in table
    same = [write_run(tmp_path / f"copy{seed}", "esft_gate", seed, tasks={"a": [1, 0, seed, 0]}) for seed in (0, 1)]
    report = report_of([*folders, *same], capsys=capsys)
    assert row_of(report, "a", "esft_gate")["verdict"] == "not tested: equal at every seed"
    assert row_of(report, "a", "esft_gate")["wilcoxon_p"] is None


def test_one_seed_has_statistics_over_items_only(tmp_path, capsys):
    folders, _ = write_study(tmp_path, Study(seeds=1, items=400, methods=2, effect=1.0))
    report = report_of(folders, capsys=capsys)
    row, other = (row_of(report, "gsm8k", arm) for arm in ("condenser", "densemixer"))
    assert [row[key] for key in ("t_p", "t_interval", "wilcoxon_p", "effect_size", "mean_interval")] == [None] * 5
    assert row["bootstrap_interval"]["low"] > 0
    assert row["holm_p"] == pytest.approx(2 * row["mcnemar_p"][0])
    assert row["verdict"] == "better on these items, of one seed"
    assert other["verdict"] == "no difference found on these items, of one seed"
    assert row_of(report, "average", "condenser")["verdict"] == "not tested: one seed"
    (note,) = report["notes"]
    assert note.startswith("statistics over seeds need two seeds or more, and there is one (0): they are left out.")


def test_differing_items_leave_out_the_statistics_over_items(tmp_path, capsys):
    folders, _ = write_study(tmp_path / "a", Study(seeds=2, items=50), tasks=("gsm8k",))
    others, _ = write_study(tmp_path / "b", Study(seeds=2, items=60, methods=2), tasks=("gsm8k",))
    report = report_of([*folders, *others[4:]], "--allow", "items", capsys=capsys)
    row = row_of(report, "gsm8k", "densemixer")
    assert row["bootstrap_interval"] is None
    assert row["mcnemar_p"] is None
    assert row["t_p"] is not None
    assert any("are left out" in note for note in report["notes"])
    assert any(note.startswith("Wilcoxon's p over 2 seeds is at least 0.5") for note in report["notes"])


def test_nll_is_better_when_lower(tmp_path, capsys):
    folders = [
        write_run(tmp_path / f"{name}{seed}", name, seed, tasks={"a": entry([0, 1], nll=nll + 0.01 * seed * nll)})
        for name, nll in (("sft", 2.0), ("condenser", 1.0))
        for seed in range(4)
    ]
    report = report_of(folders, "--metric", "nll", capsys=capsys)
    row = row_of(report, "a", "condenser")
    assert (report["unit"], row["verdict"], row["bootstrap_interval"]) == ("nats", "better", None)
    assert row["difference"] == pytest.approx(-1.015)
    folders[0] = write_run(tmp_path / "none", "sft", 0, tasks={"a": entry([0, 1], nll=None)})
    with pytest.raises(EvaluationError, match=r"--metric nll needs the nll of every task; .*none has none of a"):
        compare(words(folders, "--metric", "nll"))


def test_baseline_by_default(tmp_path):
    folders = [write_run(tmp_path / m, m, 0) for m in ("condenser", "esft_gate", "sft")]
    assert compare_runs(read_design(folders))["baseline"] == "sft"
    assert compare_runs(read_design(folders[:2]))["baseline"] == "condenser"
    fast = write_run(tmp_path / "fast", "sft", 0, learning_rate=1.0)
    assert compare_runs(read_design([*folders, fast]))["baseline"] == "sft learning_rate=0.0001"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--baseline", "magic"], "--baseline is one of 'sft', 'condenser', 'densemixer'; got 'magic'"),
        (["--tasks", "magic"], "every run has results on gsm8k, boolq; got magic"),
        (["--group", "math"], "--group is NAME=task,task"),
        (["--group", "math=magic"], "'math' has magic"),
        (["--group", "boolq=gsm8k"], "'boolq' is that of a task"),
        (["--group", "average=gsm8k"], "'average' is that of a task"),
        (["--group", "x=gsm8k", "--group", "x=boolq"], "every name once"),
        (["--alpha", "1.5"], "above 0 and at most 0.5; got 1.5"),
        (["--alpha", "nan"], "above 0 and at most 0.5; got nan"),
        (["--alpha", "0"], "above 0 and at most 0.5; got 0.0"),
        (["--alpha", "0.9"], "got 0.9; for intervals of 0.9, alpha is 0.1"),
        (["--alpha", "0.51"], "above 0 and at most 0.5; got 0.51"),
        (["--resamples", "0"], "draws resamples, at least 1; got 0"),
        (["--allow", "magic"], "--allow takes steps"),
        (["--out", "nowhere/table.md"], "there is no nowhere"),
        (["--calibrate", "10"], "and no runs"),
    ],
)
def test_bad_input(study, more, message):
    with pytest.raises(EvaluationError) as caught:
        compare(words(study[0], *more))
    assert message in str(caught.value)


@pytest.mark.parametrize(("alpha", "resamples"), [(0.9, 500), (math.nan, 500), (-0.1, 500), (0.05, 0)])
def test_a_level_that_means_nothing_is_refused_in_the_library_too(study, alpha, resamples):
    with pytest.raises(EvaluationError, match=r"above 0 and at most 0\.5|at least 1; got 0"):
        compare_runs(read_design(study[0]), alpha=alpha, resamples=resamples)
    with pytest.raises(EvaluationError, match=r"above 0 and at most 0\.5|at least 1; got 0"):
        calibrate(1, Study(seeds=2, items=4), alpha=alpha, resamples=resamples)


def test_bad_input_on_the_command_line(tmp_path, capsys):
    assert main(["compare", str(tmp_path)]) == 2
    assert "has no run.json" in capsys.readouterr().err


def test_markdown(study, capsys):
    compare(words(study[0], "--format", "markdown", "--tasks", "gsm8k", "--metric", "accuracy"))
    title, empty, head, rule, *rows = capsys.readouterr().out.strip().splitlines()
    assert title == "*gsm8k: accuracy in points, 6 seed(s), compared with sft*"
    assert (empty, len(rows)) == ("", 3)
    assert {line.count("|") for line in (head, rule, *rows)} == {12}
    assert rows[1].startswith("| condenser |")
    assert rows[1].endswith("| better |")


def test_nll_beside_accuracy(tmp_path, capsys):
    nlls = {"sft": [1.0, 2.0, 4.0], "condenser": [1.5, 2.25, 4.25]}
    folders = [
        write_run(
            tmp_path / f"{name}{seed}",
            name,
            seed,
            tasks={"a": entry([1, 0, 1, 0], nll=value), "b": entry([1, 1, 0, 1], nll=None if name == "sft" else 1.0)},
        )
        for name, own in nlls.items()
        for seed, value in enumerate(own)
    ]
    report = report_of(folders, "--group", "both=a,b", capsys=capsys)
    assert {row["metric"] for row in report["rows"]} == {"a", "b", "both", "average"}
    assert {row["metric"] for row in report["nll"]["rows"]} == {"a"}, "of the others not every run has one"
    row = row_of(report["nll"], "a", "condenser")
    assert (row["mean"], row["difference"]) == (pytest.approx(8 / 3), pytest.approx(1 / 3))
    assert row["t_p"] == row["holm_p"] == pytest.approx(stats.ttest_rel(*nlls.values()).pvalue)
    assert row["t_interval"] == pytest.approx({"low": 1 / 3 - 4.302653 / 12, "high": 1 / 3 + 4.302653 / 12})
    alone = report_of(folders, "--tasks", "a", "--metric", "nll", capsys=capsys)
    assert row_of(alone, "a", "condenser") == row
    assert "nll" not in report_of(folders, "--metric", "accuracy", capsys=capsys)


def test_latex(tmp_path, capsys):
    folders = [
        write_run(tmp_path / f"{name}{seed}", name, seed, tasks={"a_b": [1, good, seed, 0, int(good and seed)]})
        for name, good in (("sft", 0), ("esft_gate", 1))
        for seed in (0, 1)
    ]
    compare(words(folders, "--format", "latex", "--metric", "accuracy"))
    text = capsys.readouterr().out
    assert r"esft\_gate &" in text
    assert r"95\% CI" in text
    assert r"$>$=" in text
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert "%" not in "\n".join(body).replace(r"\%", "")
    assert "_" not in "\n".join(body).replace(r"\_", "")
    columns = body[0].removeprefix(r"\begin{tabular}{").removesuffix("}")
    assert {line.count(" & ") for line in body if line.endswith(r"\\")} == {len(columns) - 1}


def test_terminal_and_file(study, tmp_path, capsys):
    compare(words(study[0]))
    printed = capsys.readouterr().out
    assert printed.count("compared with sft") == 6, "accuracy and nll of two tasks and their mean"
    assert printed.index("gsm8k: accuracy in points") < printed.index("gsm8k: nll in nats") < printed.index("boolq:")
    assert "no difference found" in printed
    compare(words(study[0], "--out", str(tmp_path / "table.txt")))
    assert capsys.readouterr().out == f"result: {tmp_path / 'table.txt'}\n"
    assert (tmp_path / "table.txt").read_text() == printed


@pytest.mark.parametrize("format", ["terminal", "markdown", "latex", "json"])
def test_calibrate(capsys, monkeypatch, format):
    monkeypatch.setattr(
        "expert_condenser.cli.compare.calibration_table", lambda count, alpha: (["share", "x"], [["t_p", "5%"]])
    )
    compare(["--calibrate", "30", "--format", format])
    printed = capsys.readouterr().out
    assert "30 simulated studies" in printed
    assert "5" in printed


def test_calibrate_needs_a_number():
    with pytest.raises(EvaluationError, match="at least 1"):
        compare(["--calibrate", "0"])
