"""Short runs as processes of their own, to be killed: `start` starts them, `python -m tests.short_run` is one."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHASES, STEPS = ("sparsify", "condense"), 4
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}


def words_of(base, folder, processes=1, **options):
    """A run of two phases of four steps, each of four rows, however many processes share them."""
    defaults = {
        "model": base / "model",
        "data": base / "rows.jsonl",
        "output_dir": folder,
        "method": "condenser",
        "num_condensers": 1,
        "bias_step": 1e-2,
        "bias_step_condense": 1e-3,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 2 // processes,
        "gradient_accumulation_steps": 2,
        "max_length": 64,
        "logging_steps": 1,
        "save_steps": 1,
        **dict.fromkeys(("bf16", "gradient_checkpointing"), "false"),
        **dict.fromkeys(("use_cpu", "disable_tqdm"), "true"),
        **({"ddp_backend": "gloo"} if processes > 1 else {}),
    }
    return [word for name, value in {**defaults, **options}.items() for word in (f"--{name}", str(value))]


def environments(processes):
    """What tells each process of a run which one it is, as a launcher would."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def start(base, folder, processes=1, pace=0.0, nan_at=-1, linger=0.0, output=None, **options):
    """One process, or several without a launcher; each sleeps `pace` seconds a step, the second `linger` at its end."""
    found = []
    for rank, own in enumerate(environments(processes)):
        environment = {**ENVIRONMENT, **own, "PACE": str(pace), "NAN_AT": str(nan_at), "LINGER": str(linger)}
        with (output / f"{folder.name}-{rank}.txt" if output else Path(os.devnull)).open("w") as file:
            words = words_of(base, folder, processes, **options)
            command = [sys.executable, "-m", "tests.short_run", "train", *words]
            found.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file))
    return found


def launched(base, folder, engine=None):
    """Two processes by one command, to their end; one without an engine."""
    both = {"accelerate_config": engine, "num_processes": 2}
    words = words_of(base, folder) if engine is None else words_of(base, folder, 2, **both)
    command = [sys.executable, "-m", "expert_condenser.cli", "train", *map(str, words)]
    environment = {**ENVIRONMENT, "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)


def wait(processes, timeout=120):
    """Their exit statuses; those that do not end are killed, which is a `TimeoutExpired`."""
    end = time.monotonic() + timeout
    try:
        return [process.wait(max(end - time.monotonic(), 0.1)) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def reached(folder, phase, step, timeout=120):
    """Waits until a run has logged a step of a phase."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
        if any(f'"{phase}"' in line and json.loads(line)["step"] >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.02)
    raise AssertionError(f"{folder} did not come to step {step} of {phase}")


def of_rank(words, environment, output):
    """A process of `start` that was forked, and has imported everything before."""
    import torch

    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update({"PACE": "0", "NAN_AT": "-1", "LINGER": "0", **environment})
    torch.set_num_threads(1)
    _main(words)


def _main(words):
    from transformers import TrainerCallback
    from trl import SFTTrainer

    from expert_condenser.cli.main import main
    from expert_condenser.training import phase, run

    make, loss_of, train = phase.make_trainer, SFTTrainer.compute_loss, run.train

    class Pace(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            time.sleep(float(os.environ["PACE"]))

    def paced(folder, rows, method, model, callbacks):
        return make(folder, rows, method, model, [*callbacks[:-2], Pace(), *callbacks[-2:]])

    def broken(self, *args, **kwargs):
        loss = loss_of(self, *args, **kwargs)
        hit = self.state.global_step + 1 == int(os.environ["NAN_AT"]) and os.environ["RANK"] == "1"
        return loss * float("nan") if hit else loss

    def lingering(*args, **kwargs):
        result = train(*args, **kwargs)
        time.sleep(float(os.environ["LINGER"]) if os.environ["RANK"] == "1" else 0)
        return result

    phase.make_trainer = paced
    if float(os.environ["LINGER"]):
        run.train = lingering
    if int(os.environ["NAN_AT"]) > 0:
        SFTTrainer.compute_loss = broken
    raise SystemExit(main(words))


if __name__ == "__main__":
    _main(sys.argv[1:])
