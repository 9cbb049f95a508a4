"""What a command replaces is kept until its first step, and put back if it ends before, however it ends."""

import contextlib
import os
import subprocess
import sys

import pytest

from expert_condenser import workfolder
from expert_condenser.clearing import MARKER, Kind, Marker
from expert_condenser.errors import FolderError
from expert_condenser.ownership import LOCK
from expert_condenser.workfolder import WorkFolder

KIND = Kind("train")


class Killed(BaseException):
    pass


@pytest.fixture
def path(tmp_path):
    """A folder of an earlier run."""
    with WorkFolder(tmp_path / "out", KIND) as place:
        place.begin()
        (place.path / "result").write_text("old")
    return tmp_path / "out"


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file() and p.name != MARKER}


def test_a_folder_is_made_locked_and_marked(tmp_path):
    with WorkFolder(tmp_path / "a" / "b", KIND) as place:
        place.begin()
        assert {file.name for file in place.path.iterdir()} == {LOCK, MARKER}
    assert Marker.read(tmp_path / "a" / "b") == Marker("train")
    assert not (tmp_path / "a" / "b" / LOCK).exists()


def test_folders_that_were_made_for_nothing_are_removed(tmp_path):
    with WorkFolder(tmp_path / "a" / "b", KIND):
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with WorkFolder(tmp_path / "mine", KIND):
        pass
    assert (tmp_path / "mine").is_dir(), "control: one that was there stays"


def test_what_was_there_is_kept_until_the_first_step(path, tmp_path):
    with WorkFolder(path, KIND) as place:
        place.begin()
        (aside,) = tmp_path.glob("out.replaced-*")
        assert content(aside) == {"result": "old"}
        (path / "result").write_text("new")
        place.settle()
        assert list(tmp_path.iterdir()) == [path]
    assert content(path) == {"result": "new"}
    assert Marker.read(path) == Marker("train")


def test_an_error_before_the_first_step_puts_it_back_and_one_after_it_does_not(path, tmp_path):
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    for settle in (False, True):
        with pytest.raises(Killed), WorkFolder(path, KIND) as place:  # noqa: PT012 - the block is what is tested
            place.begin()
            (path / "result").write_text("new")
            if settle:
                place.settle()
            raise Killed
        assert content(path) == {"result": "new" if settle else "old"}
        assert settle or {file: file.stat().st_mtime_ns for file in path.iterdir()} == before
        assert list(tmp_path.iterdir()) == [path]


def kill_at(monkeypatch, number):
    """Raise `Killed` at the `number`-th change of a name or a marker; returns how many there were."""
    seen = [0]

    def counted(original):
        def act(*args, **kwargs):
            seen[0] += 1
            if seen[0] == number:
                raise Killed
            return original(*args, **kwargs)

        return act

    for owner, name in (
        (workfolder.Path, "rename"),
        (workfolder.Path, "mkdir"),
        (workfolder.Path, "unlink"),
        (workfolder.Path, "rmdir"),
        (workfolder.Marker, "write"),
        (workfolder.shutil, "rmtree"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return seen


def replace_the_run(path, step):
    """Work as a process does that is killed: it cleans nothing up."""
    place = WorkFolder(path, KIND)
    place.__enter__()
    place.begin()
    (path / "more").mkdir()
    (path / "result").write_text("new")
    if step:
        place.settle()


@pytest.mark.parametrize("number", range(1, 16))
def test_wherever_it_is_killed_the_old_or_the_new_work_is_there_whole(path, tmp_path, number, monkeypatch):
    (path / "parts").mkdir()
    (path / "parts" / "weights").write_text("old")
    with monkeypatch.context() as patch:
        seen = kill_at(patch, number)
        with contextlib.suppress(Killed):
            replace_the_run(path, step=True)
        done = seen[0] < number
    (path / LOCK).unlink(missing_ok=True)  # its process is dead
    with WorkFolder(path, KIND):
        pass
    old, new = {"parts/weights": "old", "result": "old"}, {"result": "new"}
    assert content(path) in ([new] if done else [old, new])
    assert list(tmp_path.iterdir()) == [path]


def test_that_test_kills_at_every_place(path, monkeypatch):
    seen = kill_at(monkeypatch, 0)
    replace_the_run(path, step=True)
    assert 8 <= seen[0] < 15


@pytest.mark.parametrize("number", range(1, 8))
def test_a_kill_while_it_is_put_back_loses_nothing_either(path, tmp_path, number, monkeypatch):
    replace_the_run(path, step=False)
    with monkeypatch.context() as patch:
        kill_at(patch, number)
        try:
            (path / LOCK).unlink()
            with WorkFolder(path, KIND):
                pass
        except Killed:
            pass
    (path / LOCK).unlink(missing_ok=True)
    with WorkFolder(path, KIND):
        pass
    assert content(path) == {"result": "old"}
    assert list(tmp_path.iterdir()) == [path]


def test_before_that_its_content_is_already_the_old_one(path):
    replace_the_run(path, step=False)
    place = WorkFolder(path, KIND)
    assert content(place.content) == {"result": "old"}
    assert place.holds_something()


def test_a_marker_that_a_crash_left_half_written_is_no_content(path, tmp_path):
    aside = tmp_path / "out.replaced-20260101T000000000000"
    path.rename(aside)
    path.mkdir()
    (path / f".{MARKER}.partial").write_text('{"ki')
    with WorkFolder(path, KIND):
        assert content(path) == {"result": "old", LOCK: (path / LOCK).read_text()}
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_killed_is_undone_before_anything_is_said_of_the_folder(path, tmp_path):
    path.rename(tmp_path / "out.replaced-20260101T000000000000")
    WorkFolder(path, KIND).undo_killed()
    assert content(path) == {"result": "old"}
    assert list(tmp_path.iterdir()) == [path]
    before = path.stat().st_mtime_ns
    WorkFolder(path, KIND).undo_killed()
    assert path.stat().st_mtime_ns == before, "there is nothing to undo"


@pytest.mark.parametrize("began", [True, False])
@pytest.mark.parametrize("name", ["other", "../other", ".", "out.replaced-20260101T000000000000"])
def test_a_marker_that_names_another_folder_touches_none(path, tmp_path, name, began):
    (tmp_path / "other").mkdir()
    Marker("train", replaces=name, began=began).write(path)
    with WorkFolder(path, KIND):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"out", "other"}
    assert content(path) == {"result": "old"}
    assert Marker.read(path) == Marker("train")


def test_what_cannot_be_deleted_is_left_and_the_new_work_goes_on(path, tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(workfolder, "_delete", refuse)
    with WorkFolder(path, KIND) as place:
        place.begin()
        (path / "result").write_text("new")
        place.settle()
    assert "delete it by hand" in caplog.text
    assert content(path) == {"result": "new"}
    assert Marker.read(path) == Marker("train")
    (aside,) = tmp_path.glob("out.replaced-*")
    assert content(aside) == {"result": "old"}


def test_a_folder_of_another_command_is_not_marked_anew(path):
    with (
        pytest.raises(FolderError, match=r"is a folder of `train`, and not of `study`"),
        WorkFolder(path, Kind("study")) as place,
    ):
        place.mark()
    assert Marker.read(path) == Marker("train")


def test_what_a_new_disk_holds_is_nothing(tmp_path):
    (tmp_path / "lost+found").mkdir()
    assert not WorkFolder(tmp_path, KIND).holds_something()
    (tmp_path / "more").mkdir()
    assert WorkFolder(tmp_path, KIND).holds_something()


def test_a_link_may_be_worked_in_and_stays(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    with WorkFolder(tmp_path / "link", KIND) as place:
        with pytest.raises(FolderError, match=r"one process works in a folder"):
            run_elsewhere(path)
        place.mark()
    assert (tmp_path / "link").readlink() == path
    assert content(path) == {"result": "old"}


def run_elsewhere(path):
    code = "import sys\nfrom pathlib import Path\nfrom expert_condenser.ownership import Lock\n"
    code += "with Lock(Path(sys.argv[1]), 'train'):\n    pass"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FolderError(done.stderr)


def test_a_folder_that_takes_no_writing_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="output_dir must be a folder that can be written"):
        WorkFolder(tmp_path / "file" / "out", KIND).__enter__()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        for path in (tmp_path, tmp_path / "new"):
            with pytest.raises(FolderError, match=r"output_dir must be a folder that can be written: .*Read-only"):
                WorkFolder(path, KIND).__enter__()
    finally:
        subprocess.run(["umount", tmp_path], check=True)
