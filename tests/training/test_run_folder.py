"""Nothing that a run left is lost, and nothing that is not whole is taken: starts, mistakes and damage, one by one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from expert_condenser.clearing import MARKER, Marker
from expert_condenser.cli.main import main
from expert_condenser.errors import CheckpointError, DataError, ExpertCondenserError, StorageError, TrainingError
from expert_condenser.ownership import LOCK, Owner, start_of
from expert_condenser.training import folder as folder_module
from expert_condenser.training import phase as phase_module
from expert_condenser.training import recorder as recorder_module
from expert_condenser.training import run as run_module
from expert_condenser.training import space as space_module
from expert_condenser.training.folder import RunFolder
from expert_condenser.training.run import train
from tests.runs import (
    PHASES,
    At,
    Interrupted,
    assert_identical,
    config,
    interrupt,
    interrupted,
    log_of,
    make_base,
    read,
    with_callback,
)

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(config(base, folder))
    return folder


@pytest.fixture
def old(finished, tmp_path):
    """A finished run of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "old"))


def files(folder):
    return {
        str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def no_model(monkeypatch):
    """What has to be refused before a model is loaded."""
    monkeypatch.setattr(run_module, "prepare_base", lambda *_: pytest.fail("a model was loaded"))


@pytest.fixture
def mount(tmp_path):
    """Mounts a disk in memory on a folder, with these options."""
    mounted = []

    def on(folder, options):
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if os.geteuid() or subprocess.run(command, check=False).returncode:
            pytest.skip("needs the right to mount")
        mounted.append(folder)

    yield on
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)  # a model may still be mapped from there


# Starting


def test_a_start_without_room_for_its_record_leaves_nothing_in_the_way(base, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(folder_module.RunRecord, "write", lambda *_: (_ for _ in ()).throw(StorageError("full")))
        with pytest.raises(StorageError):
            train(config(base, tmp_path, method="sft", max_steps=1))
    assert {path.name for path in tmp_path.iterdir()} == {MARKER}
    train(config(base, tmp_path, method="sft", max_steps=1))


def test_a_start_over_something_is_refused(base, tmp_path, no_model):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match=r"a run starts in an empty output_dir.*--resume.*--overwrite"):
        train(config(base, tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"`train` clears only what it made, and .* holds something else"):
        train(config(base, tmp_path, overwrite=True))
    assert {file.name for file in tmp_path.iterdir()} == {"notes.txt", "run.json"}


@pytest.mark.parametrize("content", [{"method": "x", "config": {}}, {"method": "sft", "config": {"learning_rate": 1}}])
def test_a_record_of_another_program_is_none_of_a_run(base, tmp_path, no_model, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps(content))
    with pytest.raises(TrainingError, match="holds something else"):
        train(config(base, tmp_path / "out", overwrite=True))
    assert (tmp_path / "out" / "run.json").exists()


def test_overwrite_takes_the_place_of_a_run_and_of_one_without_a_marker(base, old):
    (old / MARKER).unlink()
    for _ in range(2):
        train(config(base, old, overwrite=True, method="sft", max_steps=1, save_strategy="no"))
        assert read(old / "run.json")["method"] == "sft"
        assert Marker.read(old) == Marker("train")
        assert [path.name for path in old.parent.iterdir()] == ["old"]


EXPLICIT = {"condenser_rule": "explicit", "condensers_file": "old/condensers.json"}


@pytest.mark.parametrize(
    "options",
    [
        {"model": "old/model"},
        {"model": "."},
        {"data": "old/rows.jsonl"},
        {"eval_data": "old/rows.jsonl"},
        {"chat_template_path": "old/model/chat_template.jinja"},
        EXPLICIT,
    ],
    ids=["model", "model around it", "data", "eval_data", "template", "condensers_file"],
)
def test_overwrite_never_deletes_an_input(base, old, monkeypatch, no_model, options):
    monkeypatch.chdir(old.parent)
    shutil.copy(base / "rows.jsonl", old / "rows.jsonl")
    before = files(old)
    (name, *_) = options.keys() - {"condenser_rule"}
    with pytest.raises(TrainingError, match=f"old is not cleared: {name} is "):
        train(config(base, "old", overwrite=True, **options))
    assert files(old) == before


def test_overwrite_never_deletes_a_run_that_lies_in_its_base(base, old, no_model):
    inner = old / "model" / "run"
    inner.mkdir()
    Marker("train").write(inner)
    (inner / "metrics.jsonl").touch()
    with pytest.raises(TrainingError, match="run is not cleared: model is "):
        train(config(base, inner, overwrite=True, model=str(old / "model")))
    assert Marker.read(inner) == Marker("train")


def test_overwrite_never_deletes_its_recipe(base, old, capsys):
    (old / "recipe.yaml").write_text(
        f"model: {base / 'model'}\ndata: {base / 'rows.jsonl'}\nmethod: sft\nuse_cpu: true\nbf16: false\n"
    )
    words = ["--config", str(old / "recipe.yaml"), "--output_dir", str(old), "--overwrite", "true"]
    assert main(["train", *words]) == 2
    assert "is not cleared: config is" in capsys.readouterr().err


MISTAKES = {
    "eval_strategy without eval_data": {"eval_strategy": "steps"},
    "a learning rate of no optimizer": {"learning_rate": -1.0},
    "a tracker that is not installed": {"report_to": "wandb"},
    "an option of no schedule": {"lr_scheduler_kwargs": {"min_lr_rate": 0.1, "nonsense": 1}},
    "more condensers than there may be": {"num_condensers": "3"},
    "data that is not there": {"data": "misspelt.jsonl"},
    "a setting of no trainer": {"accelerator_config": {"nonsense": 1}},
}


@pytest.mark.parametrize("options", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_leaves_the_old_run_untouched(base, old, options):
    before = files(old)
    with pytest.raises((ExpertCondenserError, ValueError, TypeError, RuntimeError, ImportError)):
        train(config(base, old, overwrite=True, **options))
    assert files(old) == before
    assert [path.name for path in old.parent.iterdir()] == ["old"]


def test_a_new_run_that_is_killed_before_its_first_step_never_was(base, old, finished, caplog):
    process = start(base, old, "sparsify", "on_step_begin", 0, overwrite=True)
    assert process.wait() == -signal.SIGKILL
    assert Marker.read(old).replaces.startswith("old.replaced-")
    with pytest.raises(TrainingError, match="--overwrite deletes it"):
        RunFolder(config(base, old))
    assert "holds again what it held before" in caplog.text, "what is refused is undone first"
    assert [path.name for path in old.parent.iterdir()] == ["old"]
    train(config(base, old, resume=True))
    assert_identical(old, finished)
    assert [path.name for path in old.parent.iterdir()] == ["old"]


@pytest.mark.slow
def test_one_that_is_killed_after_it_goes_on(base, old, finished):
    process = start(base, old, "sparsify", "on_step_begin", 1, overwrite=True)
    assert process.wait() == -signal.SIGKILL
    assert read(old / "run.json")["finished"] is False
    train(config(base, old, resume=True))
    assert_identical(old, finished)
    assert [path.name for path in old.parent.iterdir()] == ["old"]


# Two at once

KILLED = """
import os, signal, sys, time
from pathlib import Path
from tests.runs import At, config, phase_module, train, with_callback
base, folder, phase, event, step, act, overwrite = sys.argv[1:]
def stop():
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    Path(folder, "waits").touch()
    time.sleep(60)
phase_module.make_trainer = with_callback(phase, At(event, int(step), stop))
train(config(Path(base), Path(folder), overwrite=overwrite == "True"))
"""


def start(base, folder, phase, event, step, act="kill", overwrite=False):
    words = [str(word) for word in (base, folder, phase, event, step, act, overwrite)]
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, *words], env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.DEVNULL
    )


def test_of_two_starts_into_one_folder_the_second_is_refused(base, finished, tmp_path, no_model, monkeypatch):
    folder = tmp_path / "run"
    process = start(base, folder, "sparsify", "on_step_end", 2, act="wait")
    while not (folder / "waits").exists():
        assert process.poll() is None
        time.sleep(0.1)
    (folder / "waits").unlink()
    owner = Owner.read(folder / LOCK)
    assert owner.pid == process.pid
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(TrainingError, match=rf"one process works in a folder, .* process {process.pid} on"):
            train(config(base, folder, **options))
    assert Owner.read(folder / LOCK) == owner
    process.terminate()
    time.sleep(1.5)  # it would end after the step, and this one takes a minute
    process.terminate()
    assert process.wait() == 143, "SIGTERM ends it in order"
    assert not (folder / LOCK).exists()
    monkeypatch.undo()
    train(config(base, folder, resume=True))
    assert_identical(folder, finished)


def test_who_comes_second_looks_again_under_the_lock(base, tmp_path, monkeypatch, no_model):
    """Both have seen an empty folder; the first one finishes before the second takes the lock."""
    folder = RunFolder(config(base, tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(TrainingError, match="a run starts in an empty output_dir"):
        folder.__enter__()
    assert (tmp_path / "run" / "run.json").read_text() == "{}"
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.slow
def test_two_processes_of_one_run_learn_of_a_refusal(base, tmp_path):
    """The main process locks, and the other does not wait for it for ever."""
    (tmp_path / "run").mkdir()
    other = subprocess.Popen(["sleep", "100"])
    try:
        owner = {**vars(Owner.here("train")), "pid": other.pid, "started": start_of(other.pid)}
        (tmp_path / "run" / LOCK).write_text(json.dumps(owner))
        code = "import sys\nfrom pathlib import Path\nfrom tests.runs import config, train\n"
        code += "train(config(Path(sys.argv[1]), Path(sys.argv[2]), ddp_backend='gloo'))"
        (tmp_path / "start.py").write_text(code)
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29511"]
        done = subprocess.run(
            [*launch, str(tmp_path / "start.py"), str(base), str(tmp_path / "run")],
            env=ENVIRONMENT,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode != 0
        assert "one process works in a folder" in done.stderr
        assert "the main process refused" in done.stderr
    finally:
        other.kill()
        other.wait()


# Where a run may write


def test_a_link_is_trained_into_and_not_cleared(base, finished, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    train(config(base, tmp_path / "link"))
    assert_identical(tmp_path / "disk", finished)
    before = files(tmp_path / "disk")
    with pytest.raises(TrainingError, match=r"a symbolic link is not cleared; name .*disk"):
        train(config(base, tmp_path / "link", overwrite=True))
    assert files(tmp_path / "disk") == before


def test_an_empty_mount_point_is_trained_into_and_a_full_one_not_cleared(base, finished, tmp_path, mount):
    place = tmp_path / "mount"
    mount(place, "size=1g")
    train(config(base, place))
    assert_identical(place, finished)
    before = files(place)
    with pytest.raises(TrainingError, match="is a mount point"):
        train(config(base, place, overwrite=True))
    assert files(place) == before


def test_the_working_directory_is_trained_into_and_not_cleared(base, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(config(base, "."))
    assert_identical(tmp_path, finished)
    with pytest.raises(TrainingError, match="is or contains the working directory"):
        train(config(base, ".", overwrite=True))
    assert_identical(tmp_path, finished)


def test_paths_have_spaces_and_begin_at_home(base, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(base, tmp_path / "a base")
    recipe = config(Path("~/a base"), "~/my runs/first one")
    assert recipe.run.model == str(tmp_path / "a base" / "model")
    train(recipe)
    assert_identical(tmp_path / "my runs" / "first one", finished)


def test_a_folder_that_takes_no_writing_is_refused_before_anything_is_loaded(base, tmp_path, no_model, mount):
    mount(tmp_path, "ro")
    with pytest.raises(TrainingError, match="output_dir must be a folder that can be written"):
        train(config(base, tmp_path / "run"))


def test_a_disk_that_fills_up_leaves_what_is_finished_and_a_resume_goes_on(base, finished, tmp_path, mount):
    place = tmp_path / "disk"
    mount(place, "size=3m")
    with pytest.raises(StorageError, match=r"the disk of .* is full: at least [\d,]+ bytes are missing"):
        train(config(base, place / "run"))
    subprocess.run(["mount", "-o", "remount,size=200m", place], check=True)
    train(config(base, place / "run", resume=True))
    assert_identical(place / "run", finished)


@pytest.mark.parametrize("strategy", ["no", "steps"])
def test_a_disk_with_too_little_room_is_refused_before_anything_is_written(base, tmp_path, monkeypatch, strategy):
    weights = sum(tensor.nbytes for tensor in load_file(base / "model" / "model.safetensors").values())
    needed = {"no": weights, "steps": 4 * weights}[strategy]  # weights, and weights with AdamW's two moments
    options = {"method": "sft", "max_steps": 1, "save_strategy": strategy}
    free = [needed - 1]
    monkeypatch.setattr(space_module, "free_bytes", lambda _: free[0])
    with pytest.raises(TrainingError, match=f"must have room for what the run writes, {needed:,} bytes at least"):
        train(config(base, tmp_path / "run", **options))
    assert list(tmp_path.iterdir()) == []
    free[0] = needed
    train(config(base, tmp_path / "run", **options))


# Checkpoints


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["condense/checkpoint-3/optimizer.pt", "sparsify/final/model.safetensors"])
def test_a_checkpoint_that_is_not_what_it_was_is_refused_and_nothing_deleted(base, finished, tmp_path, name):
    folder = tmp_path / "run"
    interrupted(base, folder, "condense", "on_step_end", 4)
    shutil.rmtree(folder / "condense" / "checkpoint-1")
    shutil.rmtree(folder / "condense" / "checkpoint-2")
    truncate(folder / name)
    before = files(folder)
    with pytest.raises(CheckpointError, match=rf"{name} has [\d,]+ bytes and had [\d,]+.* Restore it, or delete"):
        train(config(base, folder, resume=True))
    after = files(folder)
    assert {path: after[path] for path in before} == before
    shutil.rmtree((folder / name).parent)
    train(config(base, folder, resume=True))
    assert_identical(folder, finished) if name.startswith("condense") else assert_sparsify_again(folder, finished)


def assert_sparsify_again(folder, finished):
    ours, theirs = (load_file(run / "sparsify" / "final" / "model.safetensors") for run in (folder, finished))
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in ours)


def test_one_that_was_never_closed_is_renamed_and_the_run_goes_on_from_before(base, finished, tmp_path, caplog):
    folder = tmp_path / "run"
    interrupted(base, folder, "condense", "on_save", 2)
    assert (folder / "condense" / "checkpoint-2").is_dir()
    interrupted(base, folder, "condense", "on_save", 2, resume=True)
    assert (folder / "condense" / "unfinished-checkpoint-2").is_dir()
    assert "checkpoint-2 was never finished" in caplog.text
    train(config(base, folder, resume=True))
    assert_identical(folder, finished)
    assert not list(folder.glob("*/unfinished-*")), "the phase is done: they go"


@pytest.mark.slow
def test_the_only_one_never_closed_is_renamed_and_the_phase_starts_at_its_source(base, finished, tmp_path):
    folder = tmp_path / "run"
    interrupted(base, folder, "sparsify", "on_save", 1)
    train(config(base, folder, resume=True))
    assert_identical(folder, finished)


def test_an_older_checkpoint_goes_only_when_the_new_one_is_closed(base, tmp_path):
    options = {"method": "sft", "max_steps": 3, "save_total_limit": 1}
    train(config(base, tmp_path / "whole", **options))
    assert [path.name for path in (tmp_path / "whole" / "train").glob("checkpoint-*")] == ["checkpoint-3"]
    interrupted(base, tmp_path / "cut", "train", "on_save", 3, **options)
    assert (tmp_path / "cut" / "train" / "checkpoint-2" / "manifest.json").exists()
    train(config(base, tmp_path / "cut", resume=True, **options))
    assert_identical(tmp_path / "cut", tmp_path / "whole", phases=("train",), last=3)


@pytest.mark.slow
def test_a_folder_of_another_name_beside_the_checkpoints_is_left_alone(base, finished, tmp_path):
    folder = tmp_path / "run"
    interrupted(base, folder, "condense", "on_step_end", 3)
    for name in ("checkpoint-best", "checkpoint-4-copy", "notes"):
        (folder / "condense" / name).mkdir()
    train(config(base, folder, resume=True))
    assert_identical(folder, finished)
    assert (folder / "condense" / "checkpoint-best").is_dir()


@pytest.mark.parametrize("name", ["sparsify/final/config.json", "condense/final/config.json"])
def test_an_edited_file_of_a_finished_phase_is_an_error_that_names_it(base, old, name):
    path = old / name
    text = path.read_text()
    path.write_text(text.replace("0", "1", 1))
    assert len(path.read_text()) == len(text), "its size is the same"
    before = files(old)
    with pytest.raises(CheckpointError, match=f"{name} was changed"):
        train(config(base, old, resume=True))
    assert files(old) == before
    path.write_text(text)
    train(config(base, old, resume=True))


def test_a_finished_phase_that_is_gone_is_not_trained_again_in_silence(base, old):
    for gone in ("condense/final/manifest.json", "condense/final", "condense", "sparsify"):
        path = old / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        before = files(old)
        with pytest.raises(CheckpointError, match=r"run.json says that \w+ is finished, and .*final is not there"):
            train(config(base, old, resume=True))
        assert files(old) == before


@pytest.mark.parametrize("entry", [None, "12", 1.5, {"sha256": "0"}])
def test_a_manifest_without_sizes_is_an_error_that_names_it(base, old, entry):
    path = old / "condense" / "final" / "manifest.json"
    path.write_text(json.dumps(read(path) | {"config.json": entry}))
    with pytest.raises(CheckpointError, match=r"manifest.json has the size of every file in bytes; got .* config.json"):
        train(config(base, old, resume=True))


# The log, the clock, the result


@pytest.mark.parametrize(("phase", "event", "step"), [("condense", "on_step_end", 3), ("condense", "on_train_end", 4)])
def test_a_last_line_that_was_cut_short_is_dropped(base, finished, tmp_path, phase, event, step, caplog):
    folder = tmp_path / "run"
    interrupted(base, folder, phase, event, step)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"phase": "condense", "lo')
    train(config(base, folder, resume=True))
    assert "its last line was cut short" in caplog.text
    assert_identical(folder, finished)
    assert log_of(folder) == log_of(finished)


def test_a_last_line_that_lacks_its_end_alone_is_kept(base, old, finished, caplog):
    log = old / "metrics.jsonl"
    log.write_text(log.read_text().removesuffix("\n"))
    train(config(base, old, resume=True))
    assert log_of(old) == log_of(finished)
    assert "cut short" not in caplog.text


def test_a_line_of_deep_nesting_is_an_error_with_its_number(base, old):
    log = old / "metrics.jsonl"
    log.write_text("[" * 200_000 + "\n" + log.read_text())
    with pytest.raises(DataError, match="line 1 is none"):
        train(config(base, old, resume=True))


def test_another_line_that_is_no_entry_is_an_error_with_its_number(base, tmp_path):
    folder = tmp_path / "run"
    interrupted(base, folder, "sparsify", "on_step_end", 3)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    for wrong in ("{", '{"step": 1}', "[]"):
        text = "\n".join([lines[0], wrong, *lines[1:]]) + "\n"
        (folder / "metrics.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"metrics.jsonl has one log entry a line, and line 2 is none"):
            train(config(base, folder, resume=True))
        assert (folder / "metrics.jsonl").read_text() == text


def test_the_seconds_count_earlier_sessions_also_after_a_kill_behind_the_last_step(base, tmp_path, monkeypatch):
    """A clock that goes on by a second whenever a step begins."""
    now = [0.0]
    monkeypatch.setattr(recorder_module.time, "monotonic", lambda: now[0])

    def ticking(folder, rows, method, model, callbacks, original=phase_module.make_trainer):
        trainer = original(folder, rows, method, model, callbacks)

        def tick(args, state, control, **kwargs):
            now[0] += 1.0

        trainer.callback_handler.callbacks[-1].on_step_begin = tick
        return trainer

    monkeypatch.setattr(phase_module, "make_trainer", ticking)
    options = {"method": "sft", "num_train_epochs": 1.0}
    train(config(base, tmp_path / "whole", **options))
    for name, event, step in (("late", "on_train_end", 4), ("early", "on_step_begin", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(phase_module, "make_trainer", with_callback("train", At(event, step, interrupt), ticking))
            with pytest.raises(Interrupted):
                train(config(base, tmp_path / name, **options))
    now[0] = 1000.0  # another process, hours later
    for name in ("late", "early"):
        train(config(base, tmp_path / name, resume=True, **options))
    seconds = {
        name: read(tmp_path / name / "run.json")["phases"]["train"]["seconds"] for name in ("whole", "late", "early")
    }
    assert seconds == {"whole": 4.0, "late": 4.0, "early": 4.0}


def test_a_result_is_whole_or_the_old_one_and_what_lies_beside_it_stays(base, old, monkeypatch):
    (old / "model" / "card.md").write_text("mine")
    weights = (old / "model" / "model.safetensors").read_bytes()

    def full(source, target, **kwargs):
        target.write_bytes(source.read_bytes()[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", full)
        with pytest.raises(StorageError):
            train(config(base, old, resume=True))
    assert (old / "model" / "model.safetensors").read_bytes() == weights
    truncate(old / "model" / "model.safetensors")
    train(config(base, old, resume=True))
    assert (old / "model" / "model.safetensors").read_bytes() == weights
    assert (old / "model" / "card.md").read_text() == "mine"
    assert not (old / ".publishing").exists()


def test_what_a_run_leaves_says_whose_it_is(finished):
    assert Marker.read(finished) == Marker("train")
    assert not (finished / LOCK).exists()
    for phase in PHASES:
        assert (finished / phase / "final" / "manifest.json").exists()
