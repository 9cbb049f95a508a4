"""Every reader of the package, with a folder of valid files that it reads."""

import copy
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from expert_condenser import METHODS, RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.analysis.dynamics import dynamics_of
from expert_condenser.analysis.expert_lists import read_list, write_list
from expert_condenser.analysis.output import read_analysis, write_analysis
from expert_condenser.analysis.subjects import Shape, Subject, find_subject
from expert_condenser.analysis.usage_files import read_usage as read_counted_usage
from expert_condenser.checkpoint.guard import check_whole
from expert_condenser.checkpoint.load import load_model
from expert_condenser.clearing import Marker
from expert_condenser.cli import bench
from expert_condenser.comparison.arms import read_run
from expert_condenser.data.rows import load_rows
from expert_condenser.evaluation.day import _begun
from expert_condenser.evaluation.record import Record, append_records, read_records
from expert_condenser.evaluation.results import Results
from expert_condenser.evaluation.score_answers import score
from expert_condenser.evaluation.settings import start_or_go_on
from expert_condenser.files import read_json, write_json, write_manifest
from expert_condenser.functional.allocation import Allocation
from expert_condenser.methods.esft import ExpertConfig
from expert_condenser.ownership import Owner
from expert_condenser.planning.usage_files import read_usage as read_simulated_usage
from expert_condenser.study.jobs import JobsRecord
from expert_condenser.study.plan import read_study
from expert_condenser.testing import tiny_model
from expert_condenser.training.history import UsageHistory
from expert_condenser.training.log import mend, rewind
from expert_condenser.training.method_state import restore_method
from expert_condenser.training.parse import parse_recipe
from expert_condenser.training.record import RunRecord
from tests.fuzz import contents

SUBJECT = Subject("base", "base", Shape("olmoe", 32, (0, 1), 4, 2))


@dataclass(frozen=True)
class Reader:
    """A reader, the file of a folder that is not as it should be, and how valid files are made."""

    file: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    share: float = 1.0
    """Of the examples that every reader gets: less for one that is slow."""


def _json(name, content):
    return lambda folder: write_json(folder / name, content)


def _lines(name, rows):
    return lambda folder: (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _run(folder):
    write_json(folder / "run.json", contents.RUN)
    write_json(folder / "results.json", contents.RESULTS)
    _lines("metrics.jsonl", contents.ENTRIES)(folder)
    _history(folder / "train")


def _history(folder):
    folder.mkdir(exist_ok=True)
    history = UsageHistory()
    for step in (1, 2):
        history.add(step, torch.tensor(contents.COUNTS) * step, torch.zeros(2, 4))
    history.write(folder)


def _carded(folder):
    (folder / "README.md").write_text(contents.CARD)
    (folder / "data").mkdir()
    _lines("data/a.jsonl", contents.ROWS)(folder)


def _closed(folder):
    write_json(folder / "trainer_state.json", {})
    (folder / "weights.bin").write_bytes(b"w")
    write_manifest(folder)


def _record(folder):
    one = Record(
        "gsm8k", "1", 0, [{"role": "user", "content": "q"}], "5", "5", 3, True, "5", True, log_p={"text": [0.1]}
    )
    append_records(folder / "items.jsonl", [one, one])


def _recipe(folder):
    (folder / "recipe.yaml").write_text(contents.RECIPE)
    _lines("rows.jsonl", contents.ROWS)(folder)


def _logged(folder):
    mend(folder / "metrics.jsonl")
    rewind(folder / "metrics.jsonl", "train", 2)


def _parquet(folder):
    Dataset.from_list(contents.ROWS).to_parquet(str(folder / "rows.parquet"))


def _quietly(function, *values):
    with redirect_stdout(StringIO()):
        function(*values)


@cache
def _base():
    return tiny_model("olmoe")


def _prepared(name, phase):
    """Reads the state of a method that begins this phase."""

    def read(folder):
        kind = METHODS[name]
        method = kind(kind.Config(), phase)
        restore_method(method, read_json(folder / "state.json"), folder / "state.json")
        model = attach(copy.deepcopy(_base()), method.routing)
        for layer in moe_layers(model) if method.routing else ():
            layer.router.selection_bias.copy_(torch.linspace(-1, 1, 8))
        method.prepare(model)

    return read


def _condensers(folder):
    model = attach(copy.deepcopy(_base()), RoutingConfig())
    set_condensers(model, {0: [1], 1: [2], 2: [3]})
    layers = [
        {"layer": index, "name": layer.name, "condensers": [index], "num_experts": 8}
        for index, layer in enumerate(moe_layers(model))
    ]
    write_json(folder / "condensers.json", {"format_version": 1, "layers": layers})


def _chosen(folder):
    kind = METHODS["condenser"]
    options = {
        "condenser_rule": "explicit",
        "num_condensers": Allocation.parse("1"),
        "condensers_file": str(folder / "condensers.json"),
        "one_phase": True,
    }
    kind(kind.Config(**options), "condense").prepare(copy.deepcopy(_base()))


def _model(folder):
    model = attach(copy.deepcopy(_base()), RoutingConfig())
    set_condensers(model, {0: [1], 1: [2], 2: [3]})
    model.save_pretrained(folder)
    write_json(folder / "provenance.json", {"method": "condenser", "config": {"model": "testbed"}})


def _adapter(folder):
    base = folder / "base"
    copy.deepcopy(_base()).save_pretrained(base)
    add_adapter(load_model(base), AdapterConfig(lora="attention"), ["attention"], RoutingConfig()).save_pretrained(
        folder
    )
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": "folder/base"})


def _loaded(folder):
    load_model(folder)


READERS = {
    "a recipe": Reader("recipe.yaml", _recipe, lambda f: parse_recipe(["--config", str(f / "recipe.yaml")]), 0.5),
    "a study": Reader(
        "study.yaml",
        lambda f: (f / "study.yaml").write_text(contents.STUDY),
        lambda f: read_study(f / "study.yaml").cells(),
    ),
    "rows as JSON lines": Reader(
        "rows.jsonl", _lines("rows.jsonl", contents.ROWS), lambda f: load_rows(str(f / "rows.jsonl"))
    ),
    "conversations": Reader(
        "rows.jsonl", _lines("rows.jsonl", contents.CHATS), lambda f: load_rows(str(f / "rows.jsonl")), 2.0
    ),
    "rows as a list": Reader("rows.json", _json("rows.json", contents.ROWS), lambda f: load_rows(str(f / "rows.json"))),
    "rows within an object": Reader(
        "rows.json",
        _json("rows.json", {"version": 1, "data": contents.ROWS}),
        lambda f: load_rows(str(f / "rows.json")),
    ),
    "rows as a table": Reader(
        "rows.csv",
        lambda f: (f / "rows.csv").write_text('question,answer\n2+3?,"#### 5"\n4+4?,"a ""b""\n#### 8"\n'),
        lambda f: load_rows(str(f / "rows.csv")),
    ),
    "rows as parquet": Reader("rows.parquet", _parquet, lambda f: load_rows(str(f / "rows.parquet")), 0.3),
    "a folder's card": Reader("README.md", _carded, lambda f: load_rows(str(f))),
    "a run's record": Reader("run.json", _run, lambda f: (read_run(f), RunRecord.read(f / "run.json").rows_per_step())),
    "results": Reader("results.json", _run, lambda f: (Results.read(f / "results.json"), read_run(f))),
    "a log": Reader("metrics.jsonl", _run, _logged),
    "a log's curves": Reader("metrics.jsonl", _run, lambda f: dynamics_of(str(f)).gini()),
    "a usage history's curves": Reader("train/usage.safetensors", _run, lambda f: dynamics_of(str(f)).gini()),
    "a manifest": Reader("manifest.json", _closed, check_whole),
    "counted usage": Reader(
        "usage.json", _json("usage.json", contents.USAGE), lambda f: read_counted_usage(f / "usage.json").statistics()
    ),
    "a history as usage": Reader(
        "usage.safetensors", _history, lambda f: read_counted_usage(f / "usage.safetensors").statistics()
    ),
    "usage to simulate": Reader(
        "usage.json", _json("usage.json", contents.USAGE), lambda f: read_simulated_usage(f / "usage.json")
    ),
    "a history to simulate": Reader(
        "usage.safetensors", _history, lambda f: read_simulated_usage(f / "usage.safetensors")
    ),
    "ESFT's experts": Reader(
        "expert_cfg.json",
        _json("expert_cfg.json", contents.EXPERTS),
        lambda f: ExpertConfig.read(f / "expert_cfg.json"),
    ),
    "a list of experts": Reader(
        "experts.jsonl",
        lambda f: write_list(f / "experts.jsonl", SUBJECT, random_scores_of(SUBJECT)),
        lambda f: read_list(f / "experts.jsonl", SUBJECT),
    ),
    "answers": Reader("items.jsonl", _record, lambda f: read_records(f / "items.jsonl")),
    "an analysis": Reader(
        "usage.json",
        lambda f: write_analysis(f, "usage", {"models": [{"name": "a", "gini": [0.5]}]}, {}, "condenser analyze usage"),
        lambda f: read_analysis(f / "usage.json", "usage"),
        0.3,
    ),
    "a benchmark": Reader(
        "bench.json",
        _json("bench.json", contents.BENCHMARK),
        lambda f: _quietly(bench.run, ["show", str(f / "bench.json")]),
    ),
    "an evaluation's settings": Reader(
        "eval.json",
        _json("eval.json", contents.SETTINGS),
        lambda f: (start_or_go_on(f, contents.SETTINGS), _begun(f)),
    ),
    "a study's jobs": Reader(
        "jobs.json", _json("jobs.json", contents.JOBS), lambda f: JobsRecord.read(f / "jobs.json"), 0.5
    ),
    "answers to score": Reader("items.jsonl", _record, lambda f: score("gsm8k", f / "items.jsonl")),
    "the state of condenser": Reader(
        "state.json", _json("state.json", contents.CONDENSED), _prepared("condenser", "condense")
    ),
    "the state of ESFT": Reader("state.json", _json("state.json", contents.CHOSEN), _prepared("esft_token", "train")),
    "a run's condensers": Reader("condensers.json", _condensers, _chosen, 0.5),
    "a model's provenance": Reader("provenance.json", _model, lambda f: find_subject(str(f)), 0.3),
    "a model's config": Reader("config.json", _model, _loaded, 0.5),
    "a model's weights": Reader("model.safetensors", _model, _loaded, 0.5),
    "a model's generation config": Reader("generation_config.json", _model, _loaded, 0.3),
    "an adapter's config": Reader("adapter_config.json", _adapter, _loaded, 0.3),
    "an adapter's weights": Reader("adapter_model.safetensors", _adapter, _loaded, 0.3),
    "a folder's marker": Reader(".condenser-folder", lambda f: Marker("train").write(f), Marker.read),
    "a folder's lock": Reader(
        ".condenser-lock",
        lambda f: write_json(f / ".condenser-lock", vars(Owner.here("train"))),
        lambda f: Owner.read(f / ".condenser-lock").is_alive(),
    ),
}


def random_scores_of(subject):
    """A score for every expert."""
    shape = subject.shape
    return {"activation": torch.arange(len(shape.layers) * shape.num_experts).double().view(len(shape.layers), -1)}
