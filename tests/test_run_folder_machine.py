"""A run's folder, whatever is done to it in whatever order: `make fuzz-runs` tries 200 orders, `make test` 20.

After every step, no finished result is lost that nobody overwrote, and nothing is taken that is not whole: what a run
says is finished is the undisturbed run's to the bit. At the end a resume makes it so wherever one is possible.
"""

import errno
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from safetensors.torch import load_file

from expert_condenser import files as files_module
from expert_condenser.checkpoint.guard import is_closed, is_whole
from expert_condenser.errors import CheckpointError, DataError, ExpertCondenserError, FolderError, StorageError
from expert_condenser.files import MANIFEST
from expert_condenser.ownership import LOCK, Owner, start_of
from expert_condenser.training import phase as phase_module
from expert_condenser.training.folder import RUN_KIND
from expert_condenser.training.run import train
from expert_condenser.workfolder import WorkFolder
from tests.runs import At, Interrupted, config, interrupt, make_base, with_callback

SEQUENCES = int(os.environ.get("FUZZ_SEQUENCES", "20"))
PHASES, STEPS = ("sparsify", "condense"), 2
METHODS = {"ours": {"max_steps": 2 * STEPS}, "other": {"max_steps": 2 * STEPS, "seed": 7}}
"""Two recipes, so that an overwriting run is another one than the one it replaces."""
PLACES = [
    *[
        (phase, event, step)
        for phase in PHASES
        for event in ("on_step_begin", "on_substep_end")
        for step in range(STEPS)
    ],
    *[(phase, event, step) for phase in PHASES for event in ("on_step_end", "on_save", "on_log") for step in (1, 2)],
    *[(phase, "on_train_end", STEPS) for phase in PHASES],
]
CUTS = [("sparsify", "on_save", 2), ("condense", "on_step_begin", 1), ("condense", "on_train_end", 2)]
"""Where the killed runs were that some sequences begin with."""
DEAD = 2**22 + 1
"""A process id that Linux gives to nobody."""


@pytest.fixture(scope="module", autouse=True)
def ground(tmp_path_factory):
    """What every sequence starts from: a base model, and both runs undisturbed."""
    folder = make_base(tmp_path_factory.mktemp("ground"))
    for name in METHODS:
        train(recipe(folder, folder / name, name))
    for number, place in enumerate(CUTS):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, place)
            with pytest.raises(Interrupted):
                train(recipe(folder, folder / f"cut{number}", "ours"))
    Folder.ground = folder
    Folder.living = subprocess.Popen(["sleep", "3600"])
    yield
    Folder.living.kill()
    Folder.living.wait()


def stop_at(patch, place):
    phase, event, step = place
    patch.setattr(phase_module, "make_trainer", with_callback(phase, At(event, step, interrupt)))


def recipe(ground, folder, name, **options):
    return config(ground, folder, gradient_accumulation_steps=2, limit=8, **METHODS[name], **options)


def state(folder):
    """All numbers that a finished run leaves: weights, router state and usage of every phase, and of the result."""
    paths = [*(folder / phase / "final" for phase in PHASES), folder / "model"]
    tensors = {str(p.relative_to(folder)): load_file(p) for path in paths for p in path.glob("*.safetensors")}
    counts = json.loads((folder / "run.json").read_text())["phases"]
    return tensors, {name: (phase["steps"], phase["tokens"]) for name, phase in counts.items()}


def same(left, right):
    (one, counts), (other, others) = left, right
    return (
        counts == others
        and one.keys() == other.keys()
        and all(one[file].keys() == other[file].keys() for file in one)
        and all(one[file][key].equal(other[file][key]) for file in one for key in one[file])
    )


class Folder(RuleBasedStateMachine):
    """One output directory, and what it must hold."""

    ground: Path
    living: subprocess.Popen

    @initialize(begin=st.sampled_from(["", "ours", "ours", *(f"cut{number}" for number in range(len(CUTS)))]))
    def make(self, begin):
        self.home = Path(tempfile.mkdtemp(prefix="a run "))
        self.path = self.home / "out"
        self.run = None
        """Which recipe's run the folder holds; None of none."""
        self.finished = begin == "ours"
        if begin:
            shutil.copytree(self.ground / begin, self.path)
            self.run = "ours"
        self.damaged = {}
        """Files that were changed from outside: path -> what they held."""

    def teardown(self):
        if hasattr(self, "home"):
            if self.run is not None:
                self.unlock()
                if self.damaged:
                    self.resume()
                    self.check()
                self.mend()
                self.resume()
                assert self.finished
                self.check()
            shutil.rmtree(self.home)

    # What a person or a machine does

    @rule(name=st.sampled_from(sorted(METHODS)), overwrite=st.booleans())
    def start(self, name, overwrite):
        self.attempt(name, **({"overwrite": True} if overwrite else {}))

    @rule()
    def resume(self):
        self.attempt(self.run or "ours", resume=True)

    @rule(
        name=st.sampled_from(sorted(METHODS)),
        place=st.sampled_from(PLACES),
        how=st.sampled_from([{}, {"overwrite": True}, {"resume": True}, {"resume": True}]),
        hard=st.booleans(),
    )
    def kill(self, name, place, how, hard):
        """An interruption there; a hard one leaves everything as it is, with the lock of a process that is no more."""
        if how.get("resume") and self.run is not None:
            name = self.run
        of_another = self.is_locked()
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, place)
            if hard:
                patch.setattr(WorkFolder, "__exit__", lambda *_: None)
            self.attempt(name, **how)
        if hard and self.is_locked() and not of_another:
            self.lock(DEAD)

    @rule(hard=st.booleans())
    def overwrite_in_vain(self, hard):
        """Another run takes the place, and is killed before its first step."""
        name = "ours" if self.run == "other" else "other"
        self.kill(name, ("sparsify", "on_substep_end", 0), {"overwrite": True}, hard)

    @rule(room=st.integers(0, 60_000), how=st.sampled_from([{}, {"overwrite": True}, {"resume": True}]))
    def full_disk(self, room, how):
        """The system takes so many more bytes of JSON and logs, then none."""
        left = [room]

        def write(handle, content, original=os.write):
            if len(content) > left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= len(content)
            return original(handle, content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files_module.os, "write", write)
            self.attempt(self.run or "ours", **how)

    @precondition(lambda self: self.files_to_damage())
    @rule(data=st.data(), how=st.sampled_from(["edit", "truncate", "delete"]), final=st.booleans())
    def damage(self, data, how, final):
        """A file that a phase has left, or a checkpoint, is changed from outside."""
        found = self.files_to_damage()
        found = [path for path in found if path.parent.name == "final"] if final else found
        if found:
            path = data.draw(st.sampled_from(found))
            if how == "delete" and path.name == MANIFEST:  # that is how a folder looks that was never closed
                path.unlink()
                return
            content = path.read_bytes()
            changed = {"edit": bytes([content[0] ^ 1]) + content[1:], "truncate": content[:-5]}
            self.damaged.setdefault(path, content)
            path.unlink() if how == "delete" else path.write_bytes(changed[how])
            note(f"{how} {path.relative_to(self.path)}")

    def files_to_damage(self):
        if self.run is None or self.held != self.path:
            return []
        return [
            p for p in sorted(self.path.glob("*/*/*")) if p.parent.name.startswith(("final", "check")) and p.is_file()
        ]

    @rule()
    def mend(self):
        """Everything that was damaged is restored, and another process ends."""
        for path, content in self.damaged.items():
            if path.parent.is_dir():
                path.write_bytes(content)
        self.damaged = {}
        self.unlock()

    @precondition(lambda self: self.run is not None and self.held == self.path)
    @rule(what=st.sampled_from(["log", "result", "sparsify/checkpoint-best", "condense/checkpoint-1.old"]))
    def litter(self, what):
        """The log ends in half a line, the result is cut short (a resume mends both), or a folder lies in the way."""
        log, result = self.path / "metrics.jsonl", self.path / "model" / "model.safetensors"
        if what == "log" and log.exists():
            log.write_bytes(log.read_bytes() + b'{"phase": "condense", "st')
        elif what == "result" and result.exists():
            result.write_bytes(result.read_bytes()[:-5])
            self.finished = False
        elif (self.path / what).parent.is_dir():
            (self.path / what).mkdir(exist_ok=True)

    @precondition(lambda self: self.path.is_dir() and not self.damaged)
    @rule(name=st.sampled_from(["out", "moved away"]))
    def rename(self, name):
        """The folder gets another name and goes on under it."""
        if not (self.home / name).exists():
            self.path = self.path.rename(self.home / name)

    @precondition(lambda self: self.path.is_dir() and not self.is_locked())
    @rule()
    def second_process(self):
        self.lock(self.living.pid)

    def unlock(self):
        if self.is_locked():
            (self.path / LOCK).unlink()

    # What must hold

    @invariant()
    def check(self):
        if not hasattr(self, "home"):
            return
        if self.finished:
            damaged = {path for path in self.damaged if "final" in path.parts}
            if not damaged:
                assert same(state(self.held), state(self.ground / self.run))
            else:
                assert load_file(self.held / "model" / "model.safetensors").keys()
        assert {p for p in self.home.iterdir() if p not in (self.path, self.held)} == set(), "nothing else is left"

    @property
    def held(self):
        """Where the run lies: beside its place, while killed work waits there to be undone."""
        return WorkFolder(self.path, RUN_KIND).content

    def is_locked(self):
        return (self.path / LOCK).exists()

    def lock(self, pid):
        owner = replace(Owner.here("train"), pid=pid, started=start_of(pid) or "before")
        (self.path / LOCK).write_text(json.dumps(asdict(owner)))

    def attempt(self, name, **how):
        """Start, and hold what comes of it against what may."""
        locked = self.is_locked() and Owner.read(self.path / LOCK).pid == self.living.pid
        before = (self.run, self.finished)
        damaged = {p for p in self.damaged if is_closed(p.parent) and not is_whole(p.parent)}
        steps = Steps()
        try:
            train(recipe(self.ground, self.path, name, **how), callbacks=[steps])
        except (Interrupted, ExpertCondenserError) as error:
            note(f"{name} {how}: {error!r}")
            self.failed(error, name, how, before, steps)
        else:
            note(f"{name} {how}: done")
            assert not locked, "a second process worked in a folder of another one"
            assert self.run is None or how
            assert not how.get("resume") or self.run == name
            self.run, self.finished = name, True
            if how.get("overwrite"):
                self.damaged = {}
            else:
                assert not {path for path in damaged if "final" in path.parts}, "what is not whole was taken"
                self.damaged = {p: content for p, content in self.damaged.items() if p in damaged}

    def failed(self, error, name, how, before, steps):
        began = steps.taken > 0
        if isinstance(error, CheckpointError | DataError):
            assert self.damaged, f"nothing was damaged, and yet: {error}"
        elif isinstance(error, FolderError):
            assert steps.taken == 0
        elif not isinstance(error, Interrupted | StorageError):
            assert self.run is None or not how or (self.run != name and how.get("resume")) or "holds none" in str(error)
        if how.get("resume"):
            return
        if began:
            self.run, self.finished, self.damaged = name, False, {}
        elif before[0] is None and (self.held / "run.json").exists():
            self.run = name
        else:
            assert (self.run, self.finished) == before, "a run that took no step changed nothing"


class Steps(At):
    """Counts the steps that a run has taken."""

    def __init__(self):
        self.taken = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.taken += 1


def test_a_run_folder_survives_whatever_is_done_to_it():
    run_state_machine_as_test(
        Folder,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=6,
            deadline=None,
            database=None,
            derandomize="FUZZ_SEQUENCES" not in os.environ,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
