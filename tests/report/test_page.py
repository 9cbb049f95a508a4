"""The page of `condenser report`: what it says, that nothing in it is run but its own scripts, and what it refuses."""

import base64
import hashlib
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from expert_condenser.cli.main import main
from expert_condenser.errors import ExpertCondenserError
from expert_condenser.report.page import html, tokens
from expert_condenser.report.page.analyses import read_analyses
from expert_condenser.report.page.arrays import packed_counts, packed_reals
from expert_condenser.report.page.comparisons import Terms, report_of_runs
from expert_condenser.report.page.experts import expert_data, thinned
from expert_condenser.report.page.html import MARKER, check_place, page_of
from expert_condenser.report.page.runs import read_files
from expert_condenser.report.page.tokens import token_data
from tests.report.made import CONDENSERS, EXPERTS, LAYERS, OLD, TASK, make_results, make_run

EVIL = "</script><img src=x onerror=alert(1)>"
LIBRARY = "/* what draws */"
RIGHT, WRONG = "1" * 40, "0" * 40


class Page(HTMLParser):
    """The elements of a page: names with their attributes, headings, texts, and the content of every script."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.headings, self.texts, self._open = [], [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        elif data.strip():
            self.texts.append(data.strip())
            if self._open == "h2":
                self.headings.append(data)

    def handle_endtag(self, tag):
        self._open = None

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(autouse=True)
def plain_tokenizer(monkeypatch):
    """Token n is `<n>`, without a tokenizer to load."""

    class Plain:
        def decode(self, ids):
            return f"<{ids[0]}>"

    monkeypatch.setattr(tokens, "_tokenizer", lambda place: Plain())


def rendered(report, analyses=()):
    return Page(page_of(report, analyses, LIBRARY))


def data_of(page):
    return json.loads(page.scripts[0])


def unpacked(packed):
    values = np.frombuffer(base64.b64decode(packed["data"]), packed["type"]).reshape(packed["shape"])
    return values * packed.get("step", 1)


def answers(right):
    return {TASK: "1" * right + "0" * (40 - right), OLD: RIGHT}


@pytest.fixture
def two_seeds(tmp_path):
    """Condensers learn 20 items more than plain fine-tuning, give or take one."""
    for seed, more in ((1, 20), (2, 21), (3, 19)):
        make_run(tmp_path / f"sft{seed}", "sft", seed, correct=answers(10))
        make_run(tmp_path / f"condenser{seed}", seed=seed, correct=answers(10 + more))
    return sorted(path for path in tmp_path.iterdir())


def test_counts_are_kept_exactly_and_reals_to_a_step():
    for top, kind in ((255, "uint8"), (256, "uint16"), (65536, "uint32"), (2**40, "float64")):
        values = np.array([[0, 1], [top - 1, top]])
        packed = packed_counts(values)
        assert (packed["type"], packed["shape"]) == (kind, [2, 2])
        assert (unpacked(packed) == values).all()
    reals = np.random.default_rng(0).normal(size=(3, 5))
    packed = packed_reals(reals)
    error = np.abs(unpacked(packed) - reals).max()
    assert 0 < error <= packed["step"] / 2
    assert unpacked(packed_reals(np.zeros(3))).tolist() == [0, 0, 0]


def test_thinned_intervals_are_sums_of_neighbours():
    counts, bias = torch.arange(7)[:, None, None].expand(7, 1, 2), torch.arange(7.0)[:, None, None].expand(7, 1, 2)
    steps, fewer, ends = thinned(range(10, 80, 10), counts, bias, 3)
    assert steps == [20, 40, 70]
    assert fewer[:, 0, 0].tolist() == [0 + 1, 2 + 3, 4 + 5 + 6]
    assert ends[:, 0, 0].tolist() == [1, 3, 6]
    assert thinned(range(7), counts, bias, 7)[1] is counts


def test_the_winner_is_named_with_its_interval(two_seeds):
    report = report_of_runs(two_seeds, Terms())
    said = f"condenser won on {TASK} against sft (+50.0 [+43.8, +56.2] points; 95 % CI, 3 seeds)."
    assert report.answer.headline == said
    equal = f"No difference on {OLD}: sft and condenser are equal at every seed (95 % CI, 3 seeds)."
    assert equal in report.answer.details


def test_the_baseline_wins_where_all_others_are_worse(tmp_path):
    for seed, right in ((1, 12), (2, 9), (3, 10)):
        make_run(tmp_path / f"sft{seed}", "sft", seed, correct=answers(30))
        make_run(tmp_path / f"condenser{seed}", seed=seed, correct=answers(right))
    answer = report_of_runs(sorted(tmp_path.iterdir()), Terms()).answer
    assert answer.headline.startswith(f"sft won on {TASK}: condenser is worse (-49.2 [-58.7, -39.7] points; 95 % CI")


def test_of_three_arms_the_best_is_named_and_the_others_follow(two_seeds):
    for seed, right in ((1, 2), (2, 1), (3, 3)):
        two_seeds.append(make_run(two_seeds[0].parent / f"worse{seed}", "router_only", seed, correct=answers(right)))
    answer = report_of_runs(two_seeds, Terms()).answer
    assert answer.headline.startswith(f"condenser won on {TASK} against sft (+50.0 [")
    assert answer.headline.endswith("3 seeds, corrected for 2 arms).")
    assert answer.details[0].startswith("Worse than sft: router_only -20.0 [")


def test_the_same_difference_at_every_seed_is_no_statement(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path / f"sft{seed}", "sft", seed, correct=answers(10))
        make_run(tmp_path / f"condenser{seed}", seed=seed, correct=answers(20))
    answer = report_of_runs(sorted(tmp_path.iterdir()), Terms()).answer
    assert answer.headline.startswith(f"No statement on {TASK}:")
    assert "(+25.0 points at every seed; 95 % CI, 2 seeds)" in answer.headline


def test_an_interval_that_holds_zero_is_no_difference(tmp_path):
    for seed, right in ((1, 12), (2, 9), (3, 10)):
        make_run(tmp_path / f"sft{seed}", "sft", seed, correct=answers(10))
        make_run(tmp_path / f"condenser{seed}", seed=seed, correct=answers(right))
    report = report_of_runs(sorted(tmp_path.iterdir()), Terms(learn=(TASK,)))
    said = f"No difference found on {TASK} between sft and condenser (+0.8 [-8.7, +10.3] points; 95 % CI, 3 seeds)."
    assert report.answer.headline == said
    assert "won" not in " ".join(report.answer.details)


def test_one_seed_is_no_statement(tmp_path):
    runs = [make_run(tmp_path / m, m, correct=answers(n)) for m, n in (("sft", 0), ("condenser", 40))]
    answer = report_of_runs(runs, Terms()).answer
    assert answer.headline == f"One seed: no statement about methods on {TASK}."
    assert answer.details[0] == "On these items: sft 0.0, condenser 100.0 points."


def test_one_run_is_compared_with_its_base(tmp_path):
    run = make_run(tmp_path / "run", correct={TASK: RIGHT, OLD: WRONG})
    base = make_results(tmp_path / "base", {TASK: WRONG, OLD: RIGHT})
    answer = report_of_runs([run], Terms(base=base)).answer
    assert answer.headline == f"Learnt: {TASK} from 0.0 to 100.0 % (+100.0 points)."
    assert answer.details[0] == f"Forgotten: {OLD} from 100.0 to 0.0 % (-100.0 points)."
    assert answer.details[-1].startswith("One seed:")
    alone = report_of_runs([run], Terms()).answer
    assert alone.headline == f"One arm, condenser, and nothing to compare it with: {TASK} 100.0 %, {OLD} 0.0 %."
    again = make_results(tmp_path / "again", {TASK: RIGHT, OLD: WRONG})
    same = report_of_runs([run], Terms(base=again)).answer
    assert same.headline.startswith("No difference from the base:")
    assert "Nothing was learnt." in same.details
    other = make_results(tmp_path / "other", {TASK: WRONG})
    (other / "results.json").write_text((other / "results.json").read_text().replace('"items": "i"', '"items": "j"'))
    with pytest.raises(ExpertCondenserError, match="the same items"):
        report_of_runs([run], Terms(base=other))
    with pytest.raises(ExpertCondenserError, match="that of a run"):
        report_of_runs([run], Terms(base=run))


@pytest.mark.parametrize("terms", [Terms(learn=(TASK,)), Terms(baseline="sft"), Terms(allow=("tokens",))])
def test_what_has_no_effect_is_refused(tmp_path, terms):
    run = make_run(tmp_path / "run", correct=answers(3))
    with pytest.raises(ExpertCondenserError, match="no effect on a report of runs of one method"):
        report_of_runs([run], terms)


def test_a_run_that_is_not_evaluated_says_so(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "sft")]
    assert report_of_runs(runs[:1], Terms()).answer.headline.startswith("condenser is not evaluated:")
    report = report_of_runs(runs, Terms())
    assert report.answer.headline.startswith("No comparison:")
    assert [run.label for run in report.runs] == ["condenser", "sft"]


def test_the_sections_come_in_order_and_the_answer_first(two_seeds):
    report = report_of_runs(two_seeds, Terms())
    page = rendered(report)
    assert page.headings == ["Answer", "Comparison", "Experts", "Tokens", "Curves", "Recipe"]
    first = next(text for text in page.texts[page.texts.index("Answer") + 1 :] if text.endswith("."))
    assert first == report.answer.headline
    assert len(page.named("main")) == len(page.named("nav")) == len(page.named("h1")) == 1


def test_every_table_has_a_caption_and_scopes_and_every_figure_a_text(two_seeds):
    page = rendered(report_of_runs(two_seeds, Terms()))
    assert len(page.named("table")) == len(page.named("caption")) > 5
    assert {attributes.get("scope") for attributes in page.named("th")} == {"col", "row"}
    drawn = [attributes for attributes in page.named("div") if "data-figure" in attributes]
    assert len(drawn) == len(data_of(page)["figures"]) == 4
    assert all(len(attributes["aria-label"]) > 30 for attributes in drawn)
    nll = next(attributes for attributes in drawn if "nll" in attributes["aria-label"])
    assert "condenser from 1.99 to 1.96" in nll["aria-label"]


def test_only_the_page_s_own_scripts_run(two_seeds):
    page = rendered(report_of_runs(two_seeds, Terms()))
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts]
    assert [f"'sha256-{digest}'" in policy for digest in digests] == [False, True, True]
    assert "default-src 'none'" in policy
    assert page.scripts[1] == LIBRARY
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    sources = [a[name] for _, a in page.elements for name in ("src", "href") if name in a]
    assert sources
    assert all(source.startswith(("#", "data:")) for source in sources)


def test_what_a_user_writes_is_text_and_nothing_else(tmp_path, monkeypatch):
    class Evil:
        def decode(self, ids):
            return EVIL

    monkeypatch.setattr(tokens, "_tokenizer", lambda place: Evil())
    runs = [make_run(tmp_path / m, m, arm=f"{m}{EVIL}", correct=answers(n)) for m, n in (("sft", 9), ("condenser", 8))]
    page = rendered(report_of_runs(runs, Terms()))
    assert len(page.scripts) == 3
    assert not page.named("img")
    assert any(EVIL in text for text in page.texts)
    data = data_of(page)
    assert data["tokens"][0]["text"] == [EVIL] * 9
    assert data["experts"][0]["name"] == f"sft{EVIL}"
    # Plotly reads names as HTML, so there they are escaped.
    names = {trace["name"] for figure in data["figures"] for trace in figure["traces"]}
    assert not any("<" in name for name in names)
    assert any("&lt;/script" in name for name in names)


def test_the_heat_map_has_every_number(tmp_path):
    run = read_files(make_run(tmp_path / "run"))
    (data,) = expert_data([run])
    assert (unpacked(data["counts"]) == run.log.counts.numpy()).all()
    assert np.abs(unpacked(data["bias"]) - run.log.bias.numpy()).max() < 1e-6
    assert data["steps"] == [1, 2, 3, 4, 5, 6]
    assert data["condensersFrom"] == 3
    assert data["condensers"] == [CONDENSERS.get(layer, []) for layer in range(LAYERS)]
    assert data["layers"] == [1, 2, 3]


def test_the_tokens_have_their_experts_before_and_after_every_phase(tmp_path):
    run = read_files(make_run(tmp_path / "run"))
    (data,) = token_data([run])
    assert [each["name"] for each in data["moments"]] == ["before sparsify", "after sparsify", "after condense"]
    last = run.routing["condense"]["end.experts"].numpy()
    assert (unpacked(data["moments"][2]["experts"]) - 1 == last).all()
    assert (unpacked(data["moments"][0]["experts"]) - 1 != last[..., :2]).any()
    assert data["text"][0] == "<40>"
    assert (data["rows"], data["row"]) == (2, [0] * 5 + [1] * 4)
    (fewer,) = token_data([run], choices=1)
    assert (fewer["rows"], fewer["row"]) == (2, [0] * 5)


def test_without_recorded_routing_the_rest_stands(tmp_path):
    folder = make_run(tmp_path / "run")
    for path in folder.rglob("routing.safetensors"):
        path.unlink()
    page = rendered(report_of_runs([folder], Terms()))
    assert data_of(page)["tokens"] == []
    assert any("recorded the routing" in text for text in page.texts)
    assert data_of(page)["experts"]
    for path in folder.rglob("usage.safetensors"):
        path.unlink()
    page = rendered(report_of_runs([folder], Terms()))
    assert any("recorded its usage" in text for text in page.texts)
    assert len(data_of(page)["figures"]) == 2, "nll and the gradient norm are in the log"


def test_sixty_four_experts_in_twenty_seven_layers_at_two_hundred_moments_are_under_ten_megabytes(tmp_path):
    sizes = {"layers": 27, "experts": 64, "snapshots": 200, "tokens": (128,) * 8}
    text = page_of(report_of_runs([make_run(tmp_path / "run", **sizes)], Terms()), (), LIBRARY)
    plotly = 5 * 2**20
    assert len(text.encode()) + plotly < 10_000_000
    assert data_of(Page(text))["experts"][0]["counts"]["shape"] == [200, 27, 64]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sparsify/usage.safetensors", "usage history"),
        ("condense/routing.safetensors", "routing that a training recorded"),
        ("condensers.json", "condensers.json"),
        ("run.json", "run.json"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, word):
    folder = make_run(tmp_path / "run")
    read_files(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    with pytest.raises(ExpertCondenserError, match=word):
        report_of_runs([folder], Terms())


@pytest.mark.parametrize(
    "content",
    [
        {"counts": torch.ones(3, EXPERTS, dtype=torch.int64)},
        {"counts": -torch.ones(3, LAYERS, EXPERTS, dtype=torch.int64)},
        {"counts": torch.ones(3, LAYERS, EXPERTS + 1, dtype=torch.int64)},
    ],
)
def test_usage_of_another_shape_or_below_zero_is_refused(tmp_path, content):
    folder = make_run(tmp_path / "run")
    save_file({"step": torch.tensor([1, 2, 3]), **content}, folder / "sparsify" / "usage.safetensors")
    with pytest.raises(ExpertCondenserError, match="usage"):
        read_files(folder)


def test_a_log_without_its_phases_is_refused(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(ExpertCondenserError, match="phase and step"):
        read_files(folder)
    (folder / "metrics.jsonl").write_text("")
    assert read_files(folder).log is None


def test_condensers_of_another_model_are_refused(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "condensers.json").write_text(json.dumps({"layers": [{"layer": 0, "condensers": [EXPERTS]}]}))
    with pytest.raises(ExpertCondenserError, match="of another run"):
        read_files(folder)


def test_a_run_that_is_named_twice_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    assert report_of_runs([run], Terms())
    with pytest.raises(ExpertCondenserError, match="is there twice"):
        report_of_runs([run, tmp_path / "other" / ".." / "run"], Terms())


def test_runs_of_different_bases_are_refused(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "sft")]
    report_of_runs(runs, Terms())
    path = runs[1] / "run.json"
    path.write_text(path.read_text().replace('"testbed"', '"other"'))
    with pytest.raises(ExpertCondenserError, match="runs of one base"):
        report_of_runs(runs, Terms())


def test_a_folder_of_runs_says_which_to_name(tmp_path):
    run = make_run(tmp_path / "demo" / "sft")
    with pytest.raises(ExpertCondenserError, match=f"it holds the runs {run}"):
        report_of_runs([tmp_path / "demo"], Terms())
    with pytest.raises(ExpertCondenserError, match="output_dir of a training"):
        report_of_runs([tmp_path / "nowhere"], Terms())


def test_only_a_report_is_replaced(tmp_path):
    path = tmp_path / "report.html"
    check_place(path)
    path.write_text("<html>mine</html>")
    with pytest.raises(ExpertCondenserError, match="is another file"):
        check_place(path)
    path.write_text(page_of(report_of_runs([make_run(tmp_path / "run")], Terms()), (), LIBRARY))
    assert MARKER in path.read_text()
    check_place(path)
    for place, word in ((tmp_path, "directory"), (tmp_path / "no" / "report.html", "there is no")):
        with pytest.raises(ExpertCondenserError, match=word):
            check_place(place)


def test_analyses_are_shown_as_images_with_their_numbers(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(ExpertCondenserError, match="--analyses"):
        read_analyses([folder])
    content = {"format_version": 1, "analysis": "usage", "command": f"condenser {EVIL}", "models": [{"gini": 0.5}]}
    (folder / "usage.json").write_text(json.dumps(content))
    (folder / "usage.svg").write_text("<svg/>")
    page = rendered(report_of_runs([make_run(tmp_path / "run")], Terms()), read_analyses([folder]))
    (image,) = page.named("img")
    assert base64.b64decode(image["src"].partition(",")[2]) == b"<svg/>"
    assert image["alt"]
    assert any('"gini": 0.5' in text for text in page.texts)


def test_the_command_writes_a_page_and_bad_words_end_before(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(html, "plotly_js", lambda: LIBRARY)
    run, out = make_run(tmp_path / "run"), tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert MARKER in out.read_text()
    assert str(out) in capsys.readouterr().out
    before = out.stat().st_mtime_ns
    for words, said in (
        ([tmp_path / "none"], "no run.json"),
        ([run, "--analyses", tmp_path], "--analyses"),
        ([run, "--base", tmp_path], "--base"),
    ):
        if "--base" in words:
            make_results(run, answers(3))
        assert main(["report", *map(str, words), "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert out.stat().st_mtime_ns == before
