"""Only a folder that says it is ours is cleared, and none that is an input, a place to be, or holds another run."""

import json
import os
import subprocess

import pytest

from expert_condenser.clearing import MARKER, Kind, Marker, check_clearable, mounts_in
from expert_condenser.errors import FolderError

MARKED = '{"kind": "train", "format_version": 1, "replaces": %s}'
KIND = Kind("train", own_runs=r"seed\d+")


@pytest.fixture
def ours(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    Marker("train").write(folder)
    (folder / "model").mkdir()
    return folder


def test_a_folder_of_the_command_may_be_cleared(ours, tmp_path):
    (tmp_path / "data").mkdir()
    check_clearable(ours, KIND, {"data": tmp_path / "data"})
    (ours / "seed1").mkdir()
    Marker("train").write(ours / "seed1")
    check_clearable(ours, KIND, {})  # a run of its own goes with it


def test_a_run_that_lies_in_one_of_its_own_is_another_one(ours):
    (ours / "seed1" / "mine").mkdir(parents=True)
    Marker("train").write(ours / "seed1" / "mine")
    with pytest.raises(FolderError, match=r"another run lies in it, .*seed1/mine"):
        check_clearable(ours, KIND, {})


@pytest.mark.parametrize("name", ["run.json", MARKER])
def test_another_run_within_is_not_cleared_with_it(ours, name):
    (ours / "mine").mkdir()
    (ours / "mine" / name).write_text("{}")
    with pytest.raises(FolderError, match=r"another run lies in it, .*out/mine; move that one first"):
        check_clearable(ours, KIND, {})


def test_a_folder_of_nobody_or_of_another_command_is_not_cleared(ours):
    Marker("study").write(ours)
    with pytest.raises(FolderError, match=r"`train` clears only what it made, and .* holds something of `study`"):
        check_clearable(ours, KIND, {})
    (ours / MARKER).unlink()
    with pytest.raises(FolderError, match="holds something else"):
        check_clearable(ours, KIND, {})
    check_clearable(ours, Kind("train", is_older=lambda folder: (folder / "model").is_dir()), {})
    Marker("study").write(ours)
    with pytest.raises(FolderError, match="holds something of `study`"):
        check_clearable(ours, Kind("train", is_older=lambda folder: True), {})


@pytest.mark.parametrize(
    "text", ["", "[]", '{"kind": "train"}', MARKED % '5, "began": true', MARKED % '"x", "began": 1']
)
def test_a_marker_that_cannot_be_read_clears_nothing(ours, text):
    (ours / MARKER).write_text(text)
    with pytest.raises(FolderError, match="cannot be read"):
        check_clearable(ours, KIND, {})


def test_a_marker_of_a_later_release_clears_nothing(ours):
    content = json.loads((ours / MARKER).read_text())
    (ours / MARKER).write_text(json.dumps({**content, "format_version": 2}))
    with pytest.raises(FolderError, match="format_version 2; update"):
        check_clearable(ours, KIND, {})


@pytest.mark.parametrize("name", ["out", "out/model", "."])
def test_an_input_is_not_cleared_nor_what_it_contains_or_lies_in(ours, tmp_path, name):
    with pytest.raises(FolderError, match=r"out is not cleared: model is .*; name another output_dir"):
        check_clearable(ours, KIND, {"model": tmp_path / name})


def test_an_input_is_found_through_links(ours, tmp_path):
    (tmp_path / "link").symlink_to(ours / "model")
    with pytest.raises(FolderError, match="is not cleared: model"):
        check_clearable(ours, KIND, {"model": tmp_path / "link"})
    (ours / "model" / "weights").write_text("1")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "weights").symlink_to(ours / "model" / "weights")
    with pytest.raises(FolderError, match="is not cleared: model"):
        check_clearable(ours, KIND, {"model": tmp_path / "snapshot"})


def test_a_link_is_not_cleared_and_its_target_is_named(ours, tmp_path):
    (tmp_path / "link").symlink_to(ours)
    with pytest.raises(FolderError, match=rf"a symbolic link is not cleared; name {ours}"):
        check_clearable(tmp_path / "link", KIND, {})


@pytest.mark.parametrize("where", ["", "model"])
def test_the_working_directory_and_home_are_not_cleared(ours, monkeypatch, where):
    with monkeypatch.context() as patch:
        patch.chdir(ours / where)
        with pytest.raises(FolderError, match="is or contains the working directory"):
            check_clearable(ours, KIND, {})
    monkeypatch.setenv("HOME", str(ours / where))
    with pytest.raises(FolderError, match="is or contains the home directory"):
        check_clearable(ours, KIND, {})


@pytest.mark.parametrize("within", ["", "dáta/old rows"])
def test_a_mount_point_is_not_cleared_nor_what_holds_one(ours, tmp_path, within):
    """A folder of the same disk that is mounted a second time, as containers do."""
    source, place = tmp_path / "source", ours / within
    source.mkdir()
    Marker("train").write(source)
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() or subprocess.run(["mount", "--bind", source, place], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        assert mounts_in(ours) == [place]
        assert mounts_in(source) == []
        with pytest.raises(FolderError, match=f"{place} is a mount point"):
            check_clearable(ours, KIND, {})
    finally:
        subprocess.run(["umount", place], check=True)
    assert mounts_in(ours) == []
    check_clearable(ours, KIND, {})


def test_what_an_input_links_to_at_any_level_is_not_cleared(ours, tmp_path):
    rows, data = ours / "rows" / "train.jsonl", tmp_path / "data"
    rows.parent.mkdir()
    rows.write_text("{}")
    (data / "a" / "b").mkdir(parents=True)
    check_clearable(ours, KIND, {"data": data})
    (data / "a" / "b" / "round").symlink_to(data)
    check_clearable(ours, KIND, {"data": data})
    (data / "a" / "b" / "train.jsonl").symlink_to(rows)
    with pytest.raises(FolderError, match="is not cleared: data is"):
        check_clearable(ours, KIND, {"data": data})
    (data / "a" / "b" / "train.jsonl").unlink()
    (ours / "through").symlink_to(tmp_path / "far")
    (data / "a" / "b" / "train.jsonl").symlink_to(ours / "through")
    with pytest.raises(FolderError, match="is not cleared: data is"):
        check_clearable(ours, KIND, {"data": data})
    (data / "a" / "b" / "train.jsonl").unlink()
    (data / "self").symlink_to(data / "self")
    check_clearable(ours, KIND, {"data": data})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rows").symlink_to(rows.parent)
    (data / "a" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderError, match="is not cleared: data is"):
        check_clearable(ours, KIND, {"data": data})


def test_an_input_that_is_named_by_a_link_in_the_folder_keeps_it(ours, tmp_path):
    (tmp_path / "base").mkdir()
    (ours / "base").symlink_to(tmp_path / "base")
    (tmp_path / "other").symlink_to(ours)
    for named in (ours / "base", tmp_path / "other" / "base"):
        with pytest.raises(FolderError, match="is not cleared: model is"):
            check_clearable(ours, KIND, {"model": named})
    check_clearable(ours, KIND, {"model": ours / ".." / "base"})


def test_a_name_that_cannot_get_longer_is_refused(tmp_path):
    for length, cleared in ((223, True), (224, False)):
        folder = tmp_path / ("o" * length)
        folder.mkdir()
        Marker("train").write(folder)
        if cleared:
            check_clearable(folder, KIND, {})
        else:
            with pytest.raises(FolderError, match="its name is too long"):
                check_clearable(folder, KIND, {})
