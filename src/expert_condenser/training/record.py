"""`run.json`: what a run was asked to do, by which versions, and how far it came. Read without torch.

Version 4 (`format_version`) has `testbed` for the second embedded base; it was the first one before, which is
`testbed-v1` since. Version 3 says which rows were trained on. Version 2 has the option names of today, and of the run's
own method alone. Version 1, written before 0.2 without a `format_version`, is read as if it were of version 2
(`_migrated`); nothing rewrites either but its own run.
"""

import json
import math
import subprocess
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from expert_condenser.errors import DataError
from expert_condenser.files import read_object, write_json

RUN, METRICS = "run.json", "metrics.jsonl"
FORMAT_VERSION = 4
PER_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")
"""Options that make the rows of a step, with the number of processes."""
PACKAGES = ("expert-condenser", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


@dataclass(frozen=True)
class RunRecord:
    """The content of `run.json`."""

    method: str
    config: dict[str, Any]
    """Every option of the recipe, flat: name -> JSON value."""
    versions: dict[str, str]
    """Of the packages that computed it."""
    git_commit: str | None
    """Of this package, where it runs from a git checkout; with `-dirty` where its files were changed."""
    data: dict[str, Any] | None = None
    """The rows: `digest` of all token ids and labels, `template` (its digest), `date` (which it shows), `rows`,
    `examples`, `files`; None in versions before 3."""
    trainable: dict[str, dict[str, int]] = field(default_factory=dict)
    """`{group of parameters: {"total": n, "trainable": n}}`."""
    phases: dict[str, dict[str, int | float]] = field(default_factory=dict)
    """`{phase: {"steps": n, "tokens": n, "seconds": s}}` of those that are done."""
    steps: int | None = None
    """Optimizer steps over all phases; None until the run is finished."""
    tokens: int | None = None
    """Real tokens over all phases; None until the run is finished."""
    finished: bool = False
    merge_difference: float | None = None
    """Largest relative difference of a logit that merging the adapter made."""
    arm: str | None = None
    """Of a study's run: its arm."""
    cost: dict[str, Any] | None = None
    """Of a study's run: `seconds`, `cpu_seconds`, `flops`, `peak_mb`, `resumed`."""
    interpolated: float | None = None
    """Of a study's run: what was evaluated lies at this share of the way from the base; None: the result itself."""
    engine: str | None = None
    """How the run's processes shared the work when it began, as `condenser train --accelerate_config` names it."""
    processes: int | None = None
    """How many there were; None in records of earlier releases."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def begin(cls, method: str, config: dict[str, Any], data: dict[str, Any] | None = None) -> "RunRecord":
        """The record of a run that starts here and now."""
        return cls(method, config, {name: version(name) for name in PACKAGES}, package_commit(), data)

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Raises `DataError` where the file is missing, no JSON, malformed, or of a newer format."""
        content = read_object(path)
        found = content.get("format_version", 1)
        if type(found) is not int or found > FORMAT_VERSION:
            raise DataError(
                f"{path} has format_version {found!r}, and this release reads up to {FORMAT_VERSION}; update "
                "expert-condenser"
            )
        kinds = _NEEDED | {key: kind for key, kind in _OPTIONAL.items() if content.get(key) is not None}
        for key, kind in kinds.items():
            if not isinstance(content.get(key), kind):
                got = f"got {content[key]!r}" if key in content else "it is missing"
                raise DataError(f"{path} has {key!r}, of type {kind.__name__}; {got}. Run it again.")
        if found == 1:
            content = _migrated(content)
        if found < _SECOND_BASE and content["config"].get("model") == "testbed":
            content = {**content, "config": {**content["config"], "model": "testbed-v1"}}
        known = {f.name for f in fields(cls)}
        content = {"versions": {}, "git_commit": None, **content}
        return cls(**{key: value for key, value in content.items() if key in known})

    def rows_per_step(self) -> int | None:
        """Rows of one optimizer step, over all processes; None where the record does not say."""
        numbers = [self.processes, *(self.config.get(name) for name in PER_STEP)]
        return math.prod(numbers) if all(isinstance(n, int) for n in numbers) else None  # type: ignore[arg-type]

    def write(self, path: Path) -> None:
        """Write `run.json`, whole or not at all."""
        write_json(path, asdict(self))

    def with_phase(self, name: str, *, steps: int, tokens: int, seconds: int | float) -> "RunRecord":
        """The record after a phase is done."""
        done: dict[str, int | float] = {"steps": steps, "tokens": tokens, "seconds": round(seconds, 1)}
        return replace(self, phases={**self.phases, name: done})

    def closed(self) -> "RunRecord":
        """The record of the finished run, with its totals."""
        steps, tokens = (int(sum(phase[key] for phase in self.phases.values())) for key in ("steps", "tokens"))
        return replace(self, steps=steps, tokens=tokens, finished=True)


_NEEDED = {"method": str, "config": dict}
_OPTIONAL = {
    "versions": dict,
    "git_commit": str,
    "trainable": dict,
    "phases": dict,
    "merge_difference": float,
    "finished": bool,
    "arm": str,
    "steps": int,
    "tokens": int,
    "cost": dict,
    "data": dict,
    "interpolated": float,
    "engine": str,
    "processes": int,
}
_RENAMED = {"model_name_or_path": "model", "dataset": "data", "dataset_split": "split", "eval_dataset": "eval_data"}
"""Option names of version 1, and what they are called since."""
_ROUTING = ("routing_preset", "budget", "bias_space", "bias_in_weights", "usage", "bias_center", "bias_clip")
_ESFT = ("router", "top_p", "expert_config", "score_rows", "shared_experts", "non_expert_modules")
_CHOICE = ("num_condensers", "condenser_rule", "condensers_file", "one_phase", "selection_seed")
_OPTIONS = {
    "sft": ("router", "top_k"),
    "sft_aux": ("router", "aux_loss_coef"),
    "frozen_router": (),
    "loss_free": ("router", "bias_step", *_ROUTING),
    "bias_only": ("router", "bias_step", *_ROUTING),
    "esft_token": _ESFT,
    "esft_gate": _ESFT,
    "densemixer": ("router", "mixer"),
    "condenser": ("router", "bias_step", "bias_step_condense", *_CHOICE, *_ROUTING),
}
"""The options that each method had in version 1, which kept those of all methods. Frozen: it is history."""
_SECOND_BASE = 4
"""The version in which `testbed` became another model."""


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 as version 2."""
    method, config = content["method"], content["config"]
    others = {name for names in _OPTIONS.values() for name in names} - set(_OPTIONS.get(method, ()))
    kept = {_RENAMED.get(name, name): value for name, value in config.items() if name not in others}
    if method not in _OPTIONS:  # a method of somebody's own: which options are its own is not known
        kept = {_RENAMED.get(name, name): value for name, value in config.items()}
    kept.setdefault("router_learning_rate_factor", 1.0)  # an option since, which was not there to be set
    return {**content, "config": kept, "format_version": FORMAT_VERSION}


def package_commit() -> str | None:
    """The git commit of this package's own files: of its checkout, or of the repository it was installed from."""
    folder = Path(__file__).parent
    # Tracked there: a package that is installed below somebody's repository is not of that repository's commit.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is not None:
        commit, changed = _git(folder, "rev-parse", "HEAD"), _git(folder.parent, "status", "--porcelain", ".")
        return f"{commit}-dirty" if commit and changed else commit
    try:
        installed = json.loads(distribution("expert-condenser").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    commit = installed.get("vcs_info", {}).get("commit_id")
    return commit if isinstance(commit, str) else None


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None where there is no git, or it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
