"""The split of a name: the hub's rule, held against the `datasets` package, and the four points where ours differs."""

import pytest
from datasets.data_files import SPLIT_KEYWORDS, DataFilesDict, get_data_patterns

from expert_condenser.data.splits import KEYWORDS, SPLITS, by_split, is_data_file, known_split, split_in
from expert_condenser.errors import DataError

NAMES = {
    "train.jsonl": "train",
    "train1.json": "train",
    "my_train_file.json": "train",
    "training.json": "train",
    "a b train.jsonl": "train",
    "gsm8k-train.parquet": "train",
    "train-00000-of-00002.parquet": "train",
    "data/train-00000-of-00002.parquet": "train",
    "data/train/part-3.jsonl": "train",
    "train_sft.jsonl": "train",
    "val.jsonl": "validation",
    "valid.json": "validation",
    "validation.json": "validation",
    "validation-00000.parquet": "validation",
    "dev.jsonl": "validation",
    "arc.dev.jsonl": "validation",
    "dev2/a.json": "validation",
    "data/validation-00000-of-00001.parquet": "validation",
    "cross-val 3.json": "validation",
    "test.jsonl": "test",
    "gsm8k_test.jsonl": "test",
    "testing.jsonl": "test",
    "eval.jsonl": "test",
    "gsm8k.eval.json": "test",
    "evaluation.parquet": "test",
    "test/a.json": "test",
    "my_test/deep/er/a.json": "test",
    "test-set/part.json": "test",
    "data/test-00000-of-00002.parquet": "test",
    "test/test-0.json": "test",
    "2test3.json": "test",
    "latest.jsonl": None,
    "contest/a.json": None,
    "rows.json": None,
    "devices.jsonl": None,
    "tests.json": None,
    "trained.json": None,
    "interval.json": None,
    "medieval-part-1.json": None,
    "testfile.json": None,
    "data/part-3.jsonl": None,
}


def hub_splits(folder, name):
    """The splits that the `datasets` package finds in a folder of one file."""
    (folder / name).parent.mkdir(parents=True)
    (folder / name).touch()
    patterns = get_data_patterns(str(folder))
    return [split for split, files in DataFilesDict.from_patterns(patterns, str(folder)).items() if files]


def test_the_words_are_those_of_the_hub():
    assert {split: tuple(words) for split, words in KEYWORDS.items()} == {
        str(split): tuple(words) for split, words in SPLIT_KEYWORDS.items()
    }
    assert [known_split(word) for split in SPLITS for word in KEYWORDS[split]] == ["train"] * 2 + ["validation"] * 4 + [
        "test"
    ] * 4
    assert known_split("other") == "other"


@pytest.mark.parametrize(("name", "split"), NAMES.items())
def test_the_split_of_a_name_is_that_of_the_hub(tmp_path, name, split):
    assert split_in(name) == split
    assert hub_splits(tmp_path / "set", name) == [split or "train"]  # where no file names a split, all are train
    assert by_split([name]) == {split or "train": [name]}


@pytest.mark.parametrize(
    ("name", "split"),
    [("Test.jsonl", "test"), ("GSM8K_TEST.JSONL", "test"), ("Data/Dev/a.json", "validation"), ("LATEST.json", None)],
)
def test_letters_of_either_case_are_equal_which_they_are_not_on_the_hub(tmp_path, name, split):
    assert split_in(name) == split_in(name.lower()) == split
    assert hub_splits(tmp_path / "set", name) == ["train"]


@pytest.mark.parametrize("name", ["train_test.json", "test/train.jsonl", "dev-test.jsonl", "train/eval/val.json"])
def test_a_name_of_two_splits_is_an_error(name):
    with pytest.raises(DataError, match=rf"a file belongs to one split, but {name} names .* and .*; rename it"):
        by_split([name])


def test_a_set_of_another_name_is_a_split_of_its_own_on_the_hub_alone(tmp_path):
    name = "data/other-00000-of-00001.parquet"
    assert hub_splits(tmp_path / "set", name) == ["other"]
    assert by_split([name]) == {"train": [name]}
    with pytest.raises(DataError, match=f"1 of 2 files name none of .*: {name}"):
        by_split([name, "data/train-00000-of-00001.parquet"])


def test_the_names_of_each_split_in_their_order():
    names = ["b_train.json", "a_train.json", "test/b.json", "test/a.json", "Val.json"]
    assert by_split(names) == {"train": names[:2], "test": names[2:4], "validation": names[4:]}
    assert by_split(["b.json", "latest.jsonl", "x/a.json"]) == {"train": ["b.json", "latest.jsonl", "x/a.json"]}
    assert by_split([]) == {}


def test_a_file_without_a_split_beside_one_with_is_named():
    with pytest.raises(DataError) as error:
        by_split(["notes.json", "train.jsonl", "more/latest.jsonl"])
    assert str(error.value) == (
        "every file must name its split where one does: train.jsonl is train, but 2 of 3 files name none of train, "
        "validation, test: notes.json, more/latest.jsonl; rename what is data (train-notes.json), move what is not, "
        "or name one file"
    )


@pytest.mark.parametrize("name", ["a.json", "data/a.jsonl", "a.PARQUET", "x/states.json", "my.config.json"])
def test_data_files(name):
    assert is_data_file(name)


@pytest.mark.parametrize(
    "name",
    [
        *("a.txt", "README.md", "a.json.gz", "json", ".train.json", ".cache/a.json", "x/.git/a.json", "__old__/a.json"),
        *("state.json", "train/state.json", "dataset_info.json", "dataset_infos.json", "Dataset_Dict.json"),
        *("config.json", "test/dataset_info.json"),
    ],
)
def test_files_of_other_kinds_hidden_ones_and_metadata(name):
    assert not is_data_file(name)
