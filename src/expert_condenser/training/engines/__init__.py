"""Engines: how several processes share a training, each a file for `accelerate launch`."""

import os
from importlib.util import find_spec
from pathlib import Path

import yaml

from expert_condenser.errors import TrainingError
from expert_condenser.files import local_path

ENGINES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}
"""Name -> file."""
DEEPSPEED = ("zero2", "zero3", "zero3_offload")


_ASKED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED"}
"""What a launcher sets for an engine, and accelerate's name of the engine."""


def check_engine(kind: str, processes: int) -> None:
    """Raise `TrainingError` where accelerate shares the work by another engine than the one that was asked for.

    It runs DDP without a word where it cannot split weights on a kind of device. `kind` is its `distributed_type`.
    """
    for variable, wanted in _ASKED.items():
        if os.environ.get(variable, "false").lower() == "true" and kind != wanted and processes > 1:
            raise TrainingError(
                f"{wanted} was asked for, and accelerate runs {kind} on these devices; take accelerate_config: ddp, "
                "or other machines"
            )


def config_file(engine: str) -> Path:
    """The launch file of an engine, or of a path; raises `TrainingError` where there is none, or no DeepSpeed."""
    path = ENGINES.get(engine) or local_path(engine)
    if not path.is_file():
        raise TrainingError(
            f"accelerate_config is one of {', '.join(ENGINES)}, or a file that accelerate wrote; got {engine!r}"
        )
    if engine not in ENGINES:
        _check_file(path)
    if engine in DEEPSPEED and find_spec("deepspeed") is None:
        raise TrainingError(f"{engine} needs DeepSpeed, which is not installed: pip install deepspeed, or take fsdp2")
    if engine == "ep" and find_spec("transformers.distributed.expert_parallel") is None:
        raise TrainingError(
            "ep needs transformers 5.23 or newer, which sends tokens to experts; update it, or take fsdp2"
        )
    return path


def _check_file(path: Path) -> None:
    """Raise `TrainingError` on a file of the user's that accelerate would fail on with a traceback."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise TrainingError(f"a launch file is YAML that `accelerate config` wrote; {path}: {error}") from error
    if not isinstance(content, dict) or "distributed_type" not in content:
        got = (
            f"has {sorted(map(str, content))[:5]}" if isinstance(content, dict) else f"holds a {type(content).__name__}"
        )
        raise TrainingError(
            f"a launch file is a mapping with distributed_type, as `accelerate config` writes it; {path} {got}"
        )
