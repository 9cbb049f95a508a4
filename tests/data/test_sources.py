"""The files of a directory: at every level, in the order of their shards, and none of another split."""

import json
import os
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, DatasetDict

from expert_condenser.data import sources
from expert_condenser.data.sources import DataFile, DataFiles, files_of, find_files
from expert_condenser.errors import DataError
from tests.pairs import load_rows

OTHERS = ["val.jsonl", "eval.jsonl", "gsm8k_test.jsonl", "testing.jsonl", "Test.jsonl", "test/part.json", "myTest.json"]
OTHERS += ["testset.jsonl", "my-testdata.csv.json", "evalset.ndjson"]


def write(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": text, "completion": "so"} for text in texts]
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    else:
        path.write_text(json.dumps(rows))


def asked(directory, split="train"):
    return [prompt[0]["content"] for prompt in load_rows(str(directory), split)["prompt"]]


@pytest.mark.parametrize("other", OTHERS)
def test_rows_of_another_split_are_not_trained_on(tmp_path, other):
    write(tmp_path / "train.jsonl", "a", "b")
    write(tmp_path / other, "held out")
    assert asked(tmp_path) == ["a", "b"]
    assert asked(tmp_path, "validation" if other == "val.jsonl" else "test") == ["held out"]


@pytest.mark.parametrize("name", ["train-2.jsonl.gz", "more/rows.csv.zst", "rows.tsv", "TRAIN.JSON.BZ2"])
def test_data_that_cannot_be_read_is_named_and_not_left_out(tmp_path, name):
    write(tmp_path / "train.jsonl", "a")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=f"{name} would be left out; unpack or convert it, or move it"):
        asked(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / "notes.txt").write_text("")
    assert asked(tmp_path) == ["a"]


CARDS = {
    "by split": [{"split": "train", "path": "part_a.json"}, {"split": "test", "path": ["part_b.json", "part_c*"]}],
    "by pattern": "part_a*",
}


@pytest.mark.parametrize("files", CARDS.values(), ids=CARDS)
def test_splits_are_those_that_a_card_declares(tmp_path, files):
    for name in "abc":
        write(tmp_path / f"part_{name}.json", name)
    assert asked(tmp_path) == ["a", "b", "c"]
    configs = [{"config_name": "default", "data_files": files}]
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'license': 'mit', 'configs': configs})}---\n# Rows\n")
    assert asked(tmp_path) == ["a"]
    if isinstance(files, list):
        assert asked(tmp_path, "test") == ["b", "c"]
    else:
        with pytest.raises(DataError, match="of the split 'test', but it has none"):
            asked(tmp_path, "test")


def test_a_card_that_cannot_be_followed(tmp_path):
    write(tmp_path / "a.json", "a")
    card = tmp_path / "README.md"
    card.write_text("---\nconfigs: [{config_name: x, data_files: a.json}, {config_name: y, data_files: b.json}]\n---\n")
    with pytest.raises(DataError, match=r"declares several configurations \(x, y\)"):
        asked(tmp_path)
    for files in ("../a.json", "/a.json", "3", "[{split: train, path: 3}]", "x/**json", "a" * 256):
        card.write_text(f"---\nconfigs: [{{data_files: {files}}}]\n---\n")
        with pytest.raises(DataError, match="data_files of"):
            asked(tmp_path)
    card.write_text("---\n[: \n---\n")
    with pytest.raises(DataError, match="is YAML, as on the hub"):
        asked(tmp_path)
    for text in ("", "# Rows", "---\nlicense: mit\n---\n", "---\nnot closed"):
        card.write_text(text)
        assert asked(tmp_path) == ["a"]


@pytest.mark.parametrize("other", ["latest.jsonl", "more/rows.json"])
def test_control_a_file_that_names_no_split_is_an_error_beside_one_that_does(tmp_path, other):
    write(tmp_path / other, "b")
    assert asked(tmp_path) == ["b"]
    write(tmp_path / "train.jsonl", "a")
    with pytest.raises(DataError, match=rf"{tmp_path.name}: every file must name its split .*: {other}; rename"):
        load_rows(str(tmp_path))


@pytest.mark.parametrize("other", [".train.jsonl", ".cache/train.jsonl", "__old__/train.json", "state.json"])
def test_hidden_files_and_metadata_are_not_read(tmp_path, other):
    write(tmp_path / "rows.json", "a")
    write(tmp_path / other, "not data")
    assert asked(tmp_path) == ["a"]


def test_a_folder_of_save_to_disk_is_read(tmp_path):
    rows = Dataset.from_list([{"prompt": "a", "completion": "b"}])
    DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path)
    assert asked(tmp_path) == asked(tmp_path, "test") == ["a"]
    with pytest.raises(DataError, match=r"has the splits train, test, but 'validation' was asked"):
        load_rows(str(tmp_path), "validation")
    rows.save_to_disk(tmp_path / "one")
    assert asked(tmp_path / "one") == ["a"]
    with pytest.raises(DataError, match="one data set has no splits, but split='test' was asked"):
        load_rows(str(tmp_path / "one"), "test")


def test_every_level_is_searched(tmp_path):
    for name in ("data/train-b.parquet", "data/more/train-c.json", "data/test-0.parquet", "train-z.json"):
        write(tmp_path / name, name)
    assert list(find_files(tmp_path)) == [
        "data/more/train-c.json",
        "data/test-0.parquet",
        "data/train-b.parquet",
        "train-z.json",
    ]
    assert asked(tmp_path) == ["data/more/train-c.json", "data/train-b.parquet", "train-z.json"]
    assert asked(tmp_path, "test") == ["data/test-0.parquet"]


def test_links_are_followed_once(tmp_path):
    write(tmp_path / "set" / "train" / "a.json", "a")
    write(tmp_path / "elsewhere" / "b.json", "b")
    (tmp_path / "set" / "train" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "train" / "more").symlink_to(tmp_path / "elsewhere")
    assert asked(tmp_path / "set") == ["a", "b"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    write(tmp_path / "train" / "a.json", "a")
    write(tmp_path / "locked" / "train.json", "b")
    assert asked(tmp_path) == ["b", "a"]
    scandir = os.scandir

    def deny(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DataError, match=r"every folder of the data must be readable, but .* denied: .*locked"):
        find_files(tmp_path)


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in range(11):
        write(tmp_path / "data" / f"train-{number}-of-11.json", str(number))
    assert asked(tmp_path) == [str(number) for number in range(11)]


def test_a_missing_shard_is_an_error_in_training_too(tmp_path):
    write(tmp_path / "train-00000-of-00002.json", "a")
    with pytest.raises(
        DataError, match="must hold each of 2 shards once, as their names say, but it has train-00000-of"
    ):
        load_rows(str(tmp_path))
    write(tmp_path / "train-00001-of-00002.json", "b")
    write(tmp_path / "test-00000-of-00002.json", "held out")  # of the other split: not read, so not in the way
    assert asked(tmp_path) == ["a", "b"]


def test_the_files_that_are_read_and_those_that_are_not(tmp_path):
    for number, name in enumerate(["train-a.json", "train-b.parquet", "dev.json", "test.json"], start=1):
        write(tmp_path / name, *"x" * number)
    test, dev = str(tmp_path / "test.json"), str(tmp_path / "dev.json")
    train = [DataFile(str(tmp_path / "train-a.json"), 1), DataFile(str(tmp_path / "train-b.parquet"), 2)]
    assert files_of(str(tmp_path)) == DataFiles({"train": train}, {"validation": [dev], "test": [test]})
    other = files_of(str(tmp_path), "dev")
    assert other.read == {"validation": [DataFile(dev, 3)]}
    assert other.unread == {"train": [file.path for file in train], "test": [test]}
    assert files_of(test) == DataFiles({"train": [DataFile(test, 4)]}, {})


def test_the_rows_of_what_is_no_file(monkeypatch):
    monkeypatch.setattr(sources, "load_dataset", lambda *names, **options: Dataset.from_list([{"text": "a"}]))
    assert files_of("owner/name:main", "test") == DataFiles({"test": [DataFile("owner/name:main", 1)]}, {})
    assert files_of("testbed:gcd:3") == DataFiles({"train": [DataFile("testbed:gcd:3", 3)]}, {})
