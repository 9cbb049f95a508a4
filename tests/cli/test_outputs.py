"""No command writes over a file that it reads, or that is read-only."""

import pytest

from expert_condenser.cli.main import main
from expert_condenser.cli.outputs import FLAGS, check_outputs
from expert_condenser.errors import UsageError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text("[1]")
    return path


@pytest.mark.parametrize("flag", FLAGS)
def test_an_input_is_no_output(file, flag):
    for words in (
        [str(file), f"--{flag}", str(file)],
        [f"--{flag}={file}", "--data", f"other.json,{file}"],
        [f"--{flag}", str(file), f"--data={file.parent}/../{file.parent.name}/{file.name}"],
    ):
        with pytest.raises(UsageError, match="the same command names it again"):
            check_outputs(words)


def test_a_link_to_an_input_is_no_output(file, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(file)
    with pytest.raises(UsageError, match="the same command names it again"):
        check_outputs([str(file), "--json", str(link)])


def test_a_file_that_is_read_only_stays(file, capsys):
    file.chmod(0o444)
    with pytest.raises(UsageError, match="is read-only"):
        check_outputs(["--out", str(file)])
    assert main(["families", "--json", str(file)]) == 2
    assert "is read-only, and would be written over" in capsys.readouterr().err
    assert file.read_text() == "[1]"


def test_any_other_file_is_written_over(file, tmp_path):
    check_outputs(["data.json", "--json", str(file)])
    check_outputs([str(file), "--json", str(tmp_path / "new.json")])
    check_outputs([str(file), "--json"])
    check_outputs([str(file), "--json", "--limit", "3"])
    check_outputs([str(tmp_path), "--out", str(file)])
    check_outputs(["--out", "", str(file), "\0", "x" * 5000, "--json", str(file.parent / "other.json")])
