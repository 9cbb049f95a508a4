"""The pages that are written from committed files: what they compute, and that they are what the files say."""

import importlib.util
import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "results"


def page_of(folder):
    spec = importlib.util.spec_from_file_location(f"page_of_{folder}", RESULTS / folder / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(whole, tail, draws, tokens=(2, 2)):
    """One model's file: every task has the same numbers."""
    page = page_of("long_tail")
    exact = {"exact": "10"}
    head = {"kept": 24, "way": "as_is"}
    pruned = [{**head, "by": by, "nll": tail, "exact": "00"} for by in ("own", "base")]
    pruned += [{**head, "by": f"random {i}", "nll": nll, **exact} for i, nll in enumerate(draws)]
    task = {"tokens": list(tokens), "whole": {"nll": whole, **exact}, "pruned": pruned}
    return {"items": 2, "tasks": {name: task for group in page.GROUPS.values() for name in group}}


def contrasts_of(folder, **models):
    page = page_of("long_tail")
    for names in page.MODELS.values():
        for name in names:
            (folder / f"{name}.json").write_text(json.dumps(models.get(name, models["others"])))
    return page, page.contrasts(folder)


def test_a_contrast_is_the_tail_s_rise_beside_the_draws(tmp_path):
    file = model([2.0, 4.0], [4.0, 6.0], [[6.0, 8.0], [8.0, 10.0]])
    _, found = contrasts_of(tmp_path, others=file)
    one = found[0]
    assert (one.group, one.model, one.by, one.kept, one.way) == ("the mixture", "sft", "own", 24, "as_is")
    assert (one.whole, one.rise[0], one.random) == (1.5, 1.0, 2.5)
    assert one.difference[0] == -1.5
    assert one.rise[1:] == (1.0, 1.0), "every item loses as much"
    assert (one.difference[1], one.difference[2]) == (-2.0, -1.0), "draws differ, so the difference has an interval"
    assert (one.accuracy, one.random_accuracy) == ((0.5, 0.0), 0.5)
    assert [c.group for c in found if c.model == "base"] == ["facts", "old families"]


@pytest.mark.parametrize(("tail", "more", "less"), [([9.0, 9.0], 20, 0), ([2.0, 4.0], 0, 20), ([5.0, 7.0], 0, 0)])
def test_the_answer_follows_the_numbers(tmp_path, tail, more, less):
    page, found = contrasts_of(tmp_path, others=model([2.0, 4.0], tail, [[6.0, 8.0], [4.0, 6.0]]))
    assert sum(c.difference[1] > 0 for c in found) == more * len(found) // 20
    assert sum(c.difference[2] < 0 for c in found) == less * len(found) // 20
    said = page.answer(found)
    assert ("loses nothing" in said) == (tail != [2.0, 4.0]), "what loses nothing is not said to lose"
    assert ("Where the tail costs more" in said) == bool(more)
    assert "answers better" not in said


@pytest.mark.slow  # 8 s of bootstrap
def test_the_long_tail_s_page_is_what_its_files_say(tmp_path):
    page_of("long_tail").write_page(RESULTS / "long_tail", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == (RESULTS / "long-tail.md").read_text()


def test_the_page_of_the_figures_is_what_its_files_say(tmp_path):
    written = (RESULTS / "figures" / "README.md").read_text()
    for file in (RESULTS / "figures").glob("*/*.json"):
        place = tmp_path / file.relative_to(RESULTS / "figures")
        place.parent.mkdir(exist_ok=True)
        place.write_text(file.read_text())
    page_of("figures").write_page(tmp_path)
    assert (tmp_path / "README.md").read_text() == written
    missing = [line for line in written.splitlines() if line.startswith("| [")]
    assert len(missing) == 13, "a line for every figure"
