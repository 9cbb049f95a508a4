"""A writer leaves the old file whole and says how much was missing, whatever the disk does."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from expert_condenser.errors import DataError, FailedRunError, StorageError
from expert_condenser.files import (
    append_line,
    full_disk_named,
    is_path_within,
    local_path,
    move_into,
    read_json,
    read_text,
    replacing,
    write_json,
    write_manifest,
    write_text,
)


@pytest.fixture
def full_disk(monkeypatch):
    """The system takes 10 more bytes, then none."""
    room = [10]

    def write(handle, content, original=os.write):
        taken = min(room[0], len(content))
        if taken == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= taken
        return original(handle, bytes(content)[:taken])

    monkeypatch.setattr(os, "write", write)
    return room


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def write_as_text(path):
    write_text(path, "x" * 100_000)


def write_as_json(path):
    write_json(path, ["x" * 100_000])


def write_beside(path):
    with replacing(path, 100_000) as partial:
        partial.write_bytes(b"x" * 100_000)


@pytest.mark.parametrize("write", [write_as_text, write_as_json, write_beside])
def test_a_disk_without_room_leaves_the_old_file_and_nothing_else(small_disk, write):
    path = small_disk / "a.json"
    write_json(path, [1])
    with pytest.raises(
        StorageError, match=r"the disk of .*a.json is full: of 100,\d+ bytes at least 3\d,\d+ are missing"
    ):
        write(path)
    assert [file.name for file in small_disk.iterdir()] == ["a.json"]
    assert read_json(path) == [1]


def test_a_log_on_a_full_disk_keeps_its_lines_and_no_half_one(tmp_path, full_disk):
    full_disk[0] = 100
    append_line(tmp_path / "log", {"step": 1})
    full_disk[0] = 5
    with pytest.raises(StorageError, match=r"log is full: of 12 bytes at least"):
        append_line(tmp_path / "log", {"step": 2})
    assert (tmp_path / "log").read_text() == '{"step": 1}\n'
    full_disk[0] = 100
    append_line(tmp_path / "log", {"step": 3})
    assert [json.loads(line)["step"] for line in (tmp_path / "log").read_text().splitlines()] == [1, 3]


def test_a_file_that_the_system_takes_in_parts_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda handle, content, original=os.write: original(handle, bytes(content)[:3]))
    write_json(tmp_path / "a.json", {"name": "value"})
    assert read_json(tmp_path / "a.json") == {"name": "value"}


def test_a_full_disk_is_a_run_that_failed_and_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"none/a.json must be writable: .*No such file"):
        write_text(tmp_path / "none" / "a.json", "")
    assert issubclass(StorageError, FailedRunError), "the command ends with status 1"


def test_files_move_into_a_folder_one_by_one_and_what_else_is_there_stays(tmp_path):
    for name in ("new/a", "new/b/c", "old/a", "old/mine"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    move_into(tmp_path / "new", tmp_path / "old")
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"old/a": "new/a", "old/b/c": "new/b/c", "old/mine": "old/mine"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_is_named_whichever_library_found_it(tmp_path, error):
    with (
        pytest.raises(StorageError, match=r"the disk of .* is full: [\d,]+ bytes are left"),
        full_disk_named(tmp_path / "a"),
    ):
        raise error
    with pytest.raises(RuntimeError, match=r"^another$"), full_disk_named(tmp_path):
        raise RuntimeError("another")


def test_a_manifest_that_cannot_be_written_closes_nothing(tmp_path, full_disk):
    (tmp_path / "a").write_text("1")
    with pytest.raises(StorageError):
        write_manifest(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(DataError):
        read_json(tmp_path / "manifest.json")


def test_a_path_may_begin_at_home_and_may_have_spaces(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/my runs/a") == tmp_path / "my runs" / "a"
    assert local_path("~nobody-of-this-name/a").parts == ("~nobody-of-this-name", "a")
    assert local_path("a~b").parts == ("a~b",)


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("a.json", True),
        ("a/b.json", True),
        ("./a//b.json", True),
        ("data/**/*.json", True),
        ("a" * 255, True),
        ("a" * 256, False),
        ("b/" + "é" * 128, False),
        ("\udc80", True),
        ("", False),
        (".", False),
        ("..", False),
        ("a/../b", False),
        ("/a", False),
        ("a\0", False),
    ],
)
def test_what_names_a_file_within_a_folder(name, within):
    assert is_path_within(name) is within


def test_a_named_pipe_is_no_text_file(tmp_path):
    """Opening one waits for somebody who writes; those of a shell, in /dev, have somebody."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="named pipe"):
        read_text(tmp_path / "pipe")
    read, written = os.pipe()
    os.write(written, b"{}")
    os.close(written)
    assert read_text(Path(f"/dev/fd/{read}")) == "{}", "control"
    os.close(read)
