"""What a file names stays in that file's folder, and what is cleared is what was meant."""

import json

import pytest

from expert_condenser.analysis.dynamics import dynamics_of
from expert_condenser.checkpoint.guard import check_whole
from expert_condenser.checkpoint.load import load_model
from expert_condenser.clearing import Marker
from expert_condenser.data.rows import load_rows
from expert_condenser.errors import AnalysisError, CheckpointError, DataError, EvaluationError, FolderError
from expert_condenser.files import MANIFEST, write_json, write_manifest
from expert_condenser.study.plan import read_study
from expert_condenser.testing import tiny_model
from expert_condenser.training.folder import RUN_KIND
from expert_condenser.training.record import RunRecord
from expert_condenser.workfolder import WorkFolder
from tests.fuzz import contents

OUTSIDE = ("../elsewhere.safetensors", "/etc/passwd", "a/../../b", "..", "a\0b")


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_of_weights_names_files_beside_it(name, tmp_path):
    model = tiny_model("olmoe")
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    load_model(tmp_path / "model")  # control
    content = json.loads(index.read_text())
    content["weight_map"][next(iter(content["weight_map"]))] = name
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="names files beside it"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_names_files_of_its_folder(name, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"a")
    write_manifest(tmp_path)
    check_whole(tmp_path)  # control
    content = json.loads((tmp_path / MANIFEST).read_text())
    write_json(tmp_path / MANIFEST, {**content, name: {"size": 1}})
    with pytest.raises(CheckpointError, match=r"the files of its folder|is missing"):
        check_whole(tmp_path)


@pytest.mark.parametrize("name", ["../arm", "a/b", "..", "base", "a b", ""])
def test_an_arm_of_a_study_is_a_name(name, tmp_path):
    (tmp_path / "study.yaml").write_text(contents.STUDY)
    read_study(tmp_path / "study.yaml")  # control
    (tmp_path / "study.yaml").write_text(contents.STUDY.replace("  sft: {", f"  {json.dumps(name)}: {{"))
    with pytest.raises(EvaluationError):
        read_study(tmp_path / "study.yaml")


def test_a_point_of_a_grid_is_one_folder(tmp_path):
    grid = '{"../../x": ["../../../y"], learning_rate: [1.0e-4]}'
    (tmp_path / "study.yaml").write_text(contents.STUDY.replace("{learning_rate: [1.0e-4, 2.0e-4]}", grid))
    for cell in read_study(tmp_path / "study.yaml").cells():
        assert (tmp_path / cell.folder).resolve().is_relative_to(tmp_path / "runs" / cell.arm)
        assert ".." not in cell.folder.parts


@pytest.mark.parametrize("pattern", ["../*.jsonl", "/etc/*", "data/../../x"])
def test_a_card_names_files_of_its_folder(pattern, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"question": "2+3?", "answer": "#### 5"}\n')
    (tmp_path / "README.md").write_text(contents.CARD.replace("data/*.jsonl", pattern))
    with pytest.raises(DataError, match="names files in its folder"):
        load_rows(str(tmp_path))


def test_a_log_names_phases_and_no_folders(tmp_path):
    write_json(tmp_path / "run.json", contents.RUN)
    entry = {**contents.ENTRIES[0], "phase": "../../other"}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(AnalysisError, match="names the phases"):
        dynamics_of(str(tmp_path))


@pytest.mark.parametrize("name", ["../victim", "/victim", "victim", "victim.replaced-1/../../x"])
def test_a_marker_has_only_what_was_set_aside_deleted(name, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    write_json(folder / "run.json", contents.RUN)
    Marker("train", replaces=name, began=True).write(folder)
    with WorkFolder(folder, RUN_KIND, {}) as place:
        place.undo_killed()
        place.settle()
    assert (victim / "kept").exists()


def test_links_are_not_followed_where_a_folder_is_cleared(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    folder = tmp_path / "run"
    folder.mkdir()
    RunRecord.begin("sft", contents.RUN["config"]).write(folder / "run.json")
    Marker("train").write(folder)
    (folder / "link").symlink_to(other)
    place = WorkFolder(folder, RUN_KIND, {})
    with place:
        place.check_clearable()
        place.begin()
        place.settle()
    assert not (folder / "run.json").exists(), "control: it was cleared"
    assert (other / "kept").exists()
    folder.rename(tmp_path / "moved")
    folder.symlink_to(other)
    with pytest.raises(FolderError, match="a symbolic link is not cleared"):
        WorkFolder(folder, RUN_KIND, {}).check_clearable()
