"""`condenser watch` as a stranger calls it."""

import json

import pytest

from expert_condenser.cli import watch
from expert_condenser.cli.main import main
from expert_condenser.ownership import LOCK
from expert_condenser.training.record import METRICS
from expert_condenser.watch.page import GENERATOR
from tests.watch.folders import make_run, own


def watched(capsys, *words):
    status = main(["watch", *map(str, words)])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_a_pipe_gets_one_state(tmp_path, capsys):
    status, out, _ = watched(capsys, own(make_run(tmp_path / "run")))
    assert status == 0
    assert "training" in out
    assert "step 20 of 40" in out
    assert "\x1b" not in out


def test_a_run_that_has_not_begun_is_waited_for(tmp_path, capsys):
    status, out, _ = watched(capsys, tmp_path / "later", "--once")
    assert status == 0
    assert "waiting: no run has begun" in out


def test_a_page_is_written_until_the_run_is_over(tmp_path, capsys, monkeypatch):
    run, file, seen = own(make_run(tmp_path / "run")), tmp_path / "page.html", []

    def pressed(seconds, keyboard):
        seen.append((seconds, "location.reload" in file.read_text()))
        if len(seen) == 1:
            with (run / METRICS).open("a") as log:
                log.write('{"phase": "train", "step": 30, "loss": 1.0, "nll": 0.25}\n')
        else:
            (run / LOCK).unlink()
        return ""

    monkeypatch.setattr(watch, "pressed_within", pressed)
    status, out, _ = watched(capsys, run, "--html", file, "--every", "0.5")
    assert (status, seen) == (0, [(0.5, True), (0.5, True)])
    assert out.endswith(f"result: {file}\n")
    text = file.read_text()
    assert "stopped at step 30" in text
    assert "location.reload" not in text


def test_ctrl_c_ends_it_cleanly_and_the_page_stays(tmp_path, capsys, monkeypatch):
    def interrupted(seconds, keyboard):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "pressed_within", interrupted)
    file = tmp_path / "page.html"
    status, _, err = watched(capsys, own(make_run(tmp_path / "run")), "--html", file)
    assert (status, err) == (0, "")
    assert "location.reload" not in file.read_text()


def test_of_several_runs_each_that_works_has_a_line(tmp_path, capsys):
    own(make_run(tmp_path / "runs" / "sft" / "seed1"))
    own(tmp_path / "runs" / "sft" / "seed2")
    make_run(tmp_path / "runs" / "condenser" / "seed1")
    done = make_run(tmp_path / "runs" / "condenser" / "seed2", finished=True)
    (done / "results.json").write_text("{}")
    _, out, _ = watched(capsys, tmp_path)
    flat = "".join(out.split())
    assert "1runshaveresults" in flat
    assert "runs/sft/seed1│train│20of40" in flat
    assert "runs/sft/seed2" in flat
    assert "runs/condenser" not in flat, "it has stopped"
    for run in (tmp_path / "runs" / "sft").iterdir():
        (run / LOCK).unlink()
    over = watched(capsys, tmp_path)[1]
    assert "nothing works here any more" in over
    flat = "".join(over.split())
    assert "runs/condenser/seed1" in flat
    assert "evaluating" not in flat
    assert "finished" in flat


def test_the_page_is_of_one_run(tmp_path, capsys):
    own(make_run(tmp_path / "runs" / "a"))
    status, _, err = watched(capsys, tmp_path / "runs", "--html", tmp_path / "p.html")
    assert status == 2
    assert "is the page of one run" in err


def test_folders_and_files_of_something_else_are_refused(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    for words, message in [
        ((other,), "holds something else"),
        ((other / "notes.txt",), "is a file; name the output_dir"),
        ((run / "train",), f"is a phase of a run; name the run, {run}"),
        ((run, "--html", other), "--html is a file in a folder that exists"),
        ((run, "--html", tmp_path / "none" / "p.html"), "--html is a file in a folder that exists"),
        ((run, "--html", other / "notes.txt"), "is none; name another"),
        ((run, "--every", "0"), "0.1 to 3600 seconds; got 0"),
        ((run, "--every", "soon"), "a number of seconds; got 'soon'"),
        ((), "the following arguments are required: RUN"),
    ]:
        status, _, err = watched(capsys, *words)
        assert (status, message in " ".join(err.split())) == (2, True), err
    assert (other / "notes.txt").read_text() == "mine"


def test_an_earlier_page_is_written_over(tmp_path, capsys):
    file = tmp_path / "p.html"
    file.write_text(f"<html>{GENERATOR}")
    assert watched(capsys, make_run(tmp_path / "run"), "--html", file)[0] == 0
    assert "stopped" in file.read_text()


@pytest.mark.parametrize("content", [{"layers": 3}, "x"])
def test_a_damaged_file_is_said_and_no_crash(tmp_path, capsys, content):
    run = make_run(tmp_path / "run")
    (run / "condensers.json").write_text(json.dumps(content))
    status, out, _ = watched(capsys, run)
    assert status == 0
    assert "left out: condensers.json" in out
