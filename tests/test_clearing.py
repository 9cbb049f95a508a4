"""Only a folder that says it is ours is cleared, and none that is an input, a place to be, or holds another run."""

import json
import os
import subprocess

import pytest

from expert_condenser.clearing import MARKER, Kind, Marker, check_clearable, is_mount
from expert_condenser.errors import FolderError

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


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "train"}'])
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


def test_a_mount_point_is_not_cleared(ours, tmp_path):
    """A folder of the same disk that is mounted a second time, as containers do."""
    place = tmp_path / "a place"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "--bind", ours, place], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        assert is_mount(place)
        assert not is_mount(ours)
        with pytest.raises(FolderError, match="is a mount point"):
            check_clearable(place, KIND, {})
    finally:
        subprocess.run(["umount", place], check=True)
    assert not is_mount(place)
