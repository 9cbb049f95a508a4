"""Random kills over short runs: `make kill-test N=200`, 10 in `make test-slow`.

A seed is a run: of one process, of two, or of a study. It is killed once or more, at random moments, and resumed to its
end, which is to be that of the undisturbed run: every weight, bias, count and logged step. No file is torn, no lock or
partial file stays, and no process.
"""

import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from expert_condenser.checkpoint.guard import unfinished_in
from expert_condenser.files import is_partial
from expert_condenser.ownership import LOCK, start_of
from tests.runs import PHASES, assert_identical, make_base, read
from tests.short_run import ENVIRONMENT, ROOT, environments, of_rank, words_of

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "10"))
KINDS = ("trainer", "trainer", "ranks", "ranks", "study")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MARK = "CONDENSER_KILL_TEST"
PACE = 0.1
OWN = re.compile("^(INFO|WARNING|condenser)", re.MULTILINE)
MEETING = 20
"""Seconds in which processes have found each other, or one of them is gone."""
SHORT = {"study": "study.yaml", "trainer": 1, "ranks": 2}


@pytest.fixture(scope="module")
def forked():
    """Processes that have imported everything: a start takes a tenth of a second and not ten."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    first = context.Process(target=time.sleep, args=(0,))
    first.start()
    first.join()  # the imports are not part of any run's time
    return context


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


class Run:
    """Processes of one run, started, killed and started again."""

    def __init__(self, kind, folder, base, context):
        self.kind, self.folder, self.base, self.context = kind, folder, base, context
        self.output = folder.parent / f"{folder.name}.txt"
        self.processes = []

    def start(self):
        resume = {"resume": "true"} if (self.folder / "run.json").exists() else {}
        count = 2 if self.kind == "ranks" else 1
        words = ["train", *map(str, words_of(self.base, self.folder, count, **resume))]
        own = [{**each, "PACE": str(PACE)} for each in environments(count)]
        self.before = len(self.output.read_text()) if self.output.exists() else 0
        self.processes = [self.context.Process(target=of_rank, args=(words, each, self.output)) for each in own]
        for process in self.processes:
            process.start()

    def kill(self, rng):
        """One of them; the others end by themselves."""
        number = rng.choice(SIGNALS)
        process = rng.choice(self.processes)
        if process.is_alive():
            os.kill(process.pid, number)
        return number

    def codes(self, seconds=120):
        """Their exit statuses."""
        end = time.monotonic() + seconds
        self.meet()
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0.1))
        found = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        assert None not in found, f"a process did not end: {self.output.read_text()[-2000:]}"
        return found

    def meet(self):
        """Who waits at the start for one that is gone does so for half an hour, if no launcher ends it as this does."""
        end = time.monotonic() + MEETING
        while any(process.is_alive() for process in self.processes):
            if self.output.exists() and OWN.search(self.output.read_text()[self.before :]):
                return  # only those who have found each other say something of ours
            if time.monotonic() > end:
                for process in self.processes:
                    process.kill()
            time.sleep(0.05)

    def check(self, expected):
        assert_identical(self.folder, expected)
        for phase in PHASES:
            assert unfinished_in(self.folder / phase) == []


class StudyRun(Run):
    """A study of one run, by its parent."""

    def start(self):
        options = {word.removeprefix("--"): value for word, value in pairs(words_of(self.base, "-"))}
        own = ("model", "output_dir", "method", "num_condensers", "bias_step", "bias_step_condense")
        arm = {"method": "condenser", "num_condensers": 1, "bias_step": 1e-2, "bias_step_condense": 1e-3}
        self.folder.mkdir(exist_ok=True)
        content = {
            "base": str(self.base / "model"),
            "options": {name: yaml.safe_load(str(value)) for name, value in options.items() if name not in own},
            "seeds": [1],
            "arms": {"ours": arm},
            "evaluate": {"tasks": {"testbed:gcd": 2}, "max_new_tokens": 4},
            "keep_models": True,
        }
        path = self.folder / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "expert_condenser", "study", str(path), "--output_dir", str(self.folder)]
        environment = {**ENVIRONMENT, MARK: str(self.folder)}
        with self.output.open("a") as file:
            self.processes = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)]

    def kill(self, rng):
        number = rng.choice(SIGNALS)
        self.processes[0].send_signal(number)
        return number

    def codes(self, seconds=600):
        try:
            found = [self.processes[0].wait(seconds)]
        finally:
            self.processes[0].kill()
            self.processes[0].wait()
        end = time.monotonic() + 60
        while (orphans := self.living()) and time.monotonic() < end:
            time.sleep(0.1)
        assert orphans == [], "a study that ends takes its processes along"
        return found

    def living(self):
        """Processes that this study has started."""
        mark = f"{MARK}={self.folder}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes() and start_of(int(path.parent.name)) is not None:
                    found.append(path.parent.name)
            except OSError:
                continue  # it ended, or is somebody else's
        return found

    def check(self, expected):
        run = Path("runs", "ours", "seed1")
        assert_identical(self.folder / run, expected / run)
        for name in ("base", run):
            one, other = (read(folder / name / "results.json") for folder in (self.folder, expected))
            assert {**one, "throughput": 0} == {**other, "throughput": 0}


def pairs(words):
    return zip(words[::2], words[1::2], strict=True)


@pytest.fixture(scope="module")
def undisturbed(base, forked, tmp_path_factory):
    """Of every kind, the folder of a run that nothing disturbed, and the seconds that it took."""
    made = {}

    def run(kind):
        if kind not in made:
            found = make(kind, tmp_path_factory.mktemp(kind) / "run", base, forked)
            start = time.monotonic()
            found.start()
            assert set(found.codes()) == {0}, found.output.read_text()[-2000:]
            made[kind] = found.folder, time.monotonic() - start
        return made[kind]

    return run


def make(kind, folder, base, context):
    return (StudyRun if kind == "study" else Run)(kind, folder, base, context)


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_run_that_was_killed_ends_as_if_nothing_had_happened(base, forked, undisturbed, tmp_path, seed):
    rng = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    expected, seconds = undisturbed(kind)
    run = make(kind, tmp_path / "run", base, forked)
    said = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        run.start()
        time.sleep(rng.uniform(0.0, seconds))
        number = run.kill(rng)
        said.append((number.name, run.codes()))
    for _ in range(3):  # a study says that a run failed whose process was killed, and runs it when it is started again
        run.start()
        codes = run.codes()
        if set(codes) == {0}:
            break
    print(f"{kind}, seed {seed}: {said}")
    assert set(codes) == {0}, run.output.read_text()[-3000:]
    run.check(expected)
    left = [path for path in run.folder.rglob("*") if path.name == LOCK or is_partial(path.name)]
    assert left == []
    shutil.rmtree(run.folder)
