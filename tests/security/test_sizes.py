"""A config that asks for more than its files hold is refused before memory is taken, in a process that has little."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from expert_condenser import RoutingConfig, attach, set_condensers
from expert_condenser.checkpoint.config import _check_counts, check_room, read_config
from expert_condenser.cli.main import main
from expert_condenser.errors import CheckpointError
from expert_condenser.testing import tiny_model
from tests.runs import make_base
from tests.security.hostile import edit_json

LIMITED = """
import json, resource, sys
import torch
from safetensors.torch import save_file
from expert_condenser.checkpoint.load import load_model
from expert_condenser.analysis.subjects import shape_of
from expert_condenser.errors import ExpertCondenserError

folder, cases, more = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
path = folder + "/config.json"
valid = json.load(open(path))
load_model(folder)  # all that an import takes is there
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))
for change in cases:
    section = {**valid, **change}
    json.dump(section, open(path, "w"))
    for read in (load_model, shape_of):
        try:
            read(folder)
        except ExpertCondenserError as error:
            print(json.dumps([read.__name__, "refused", str(error)[:300]]))
        except BaseException as error:
            print(json.dumps([read.__name__, "failed", repr(error)[:300]]))
        else:
            print(json.dumps([read.__name__, "read", ""]))
"""
HUGE = [2**31, 2**62, 10**30, 1e308, -1, "9" * 50, True, [3], None]
FIELDS = ("num_experts", "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")
MEMORY = 400 * 2**20


def limited(folder, cases):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), json.dumps(cases), str(MEMORY)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("own_type", [False, True])
def test_huge_numbers_take_no_memory(own_type, tmp_path):
    model = tiny_model("olmoe")
    if own_type:
        set_condensers(attach(model, RoutingConfig()), {0: [1], 1: [2], 2: [3]})
    model.save_pretrained(tmp_path)
    cases = [{name: value} for name in FIELDS for value in HUGE]
    cases += [{"num_experts": 60_000, "intermediate_size": 60_000}, {"num_hidden_layers": 900}, {"num_experts": 64}]
    found = limited(tmp_path, [{}, *cases])
    assert [state for _, state, _ in found[:2]] == ["read", "read"], "control: the valid config, within this memory"
    failed = [(cases[at // 2 - 1], row) for at, row in enumerate(found) if row[1] == "failed"]
    assert failed == []
    loaded = [cases[at // 2 - 1] for at, row in enumerate(found[2:], start=2) if row[:2] == ["load_model", "read"]]
    assert [case for case in loaded if not {*case.values()} <= {None, True}] == []


SLOW_TO_MAKE = [
    ("jamba", {"num_hidden_layers": 500}),
    ("dbrx", {"n_layers": 500}),
    ("muse_spark", {"audio_config": {"depths": [20_000, 1, 1, 1]}}),
    ("muse_spark", {"audio_config": {"depths": [500, 1, 1, 1]}}),
    ("qwen3_omni_moe_thinker", {"audio_config": {"encoder_layers": 20_000}}),
    ("qwen3_omni_moe_thinker", {"audio_config": {"encoder_layers": 500}}),
    ("qwen3_omni_moe_thinker", {"vision_config": {"deepstack_visual_indexes": [0] * 20_000}}),
    ("nemotron_h", {"layers_block_type": ["moe", "full_attention"] * 5_000}),
    ("minimax", {"block_size": 20_000}),
]


@pytest.mark.parametrize(("family", "change"), SLOW_TO_MAKE, ids=lambda value: str(value)[:60])
def test_what_takes_long_to_make_is_not_made(family, change, tmp_path):
    """Thousands of layers take seconds also without memory, and a table that is computed is in no file."""
    tiny_model(family).save_pretrained(tmp_path)
    check_room(tmp_path, read_config(tmp_path))

    def merged(content, more):
        for key, value in more.items():
            content[key] = merged(content.get(key) or {}, value) if isinstance(value, dict) else value
        return content

    edit_json(tmp_path / "config.json", lambda content: merged(content, change))
    begin = time.process_time()
    with pytest.raises(CheckpointError):
        check_room(tmp_path, read_config(tmp_path))
    assert time.process_time() - begin < 1


def test_the_configs_of_families_are_no_hostile_ones():
    """The bounds are above what every family of transformers has by itself."""
    checked = 0
    for name, kind in CONFIG_MAPPING.items():
        try:
            content = kind().to_dict()
        except Exception:  # some have no defaults, and some need another package
            continue
        _check_counts(name, content)
        checked += 1
    assert checked > 300


def test_an_older_kind_of_file_is_counted_as_well(tmp_path):
    model = tiny_model("olmoe")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    check_room(tmp_path, read_config(tmp_path))
    edit_json(tmp_path / "config.json", lambda content: content.update(intermediate_size=1_000_000))
    save_file({"counts": torch.zeros(2)}, tmp_path / "usage.safetensors")  # no weights, and no reason to look away
    with pytest.raises(CheckpointError, match="must hold every weight"):
        check_room(tmp_path, read_config(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_named_pipe_is_no_file(name, tmp_path):
    """Opening one waits for somebody who writes."""
    base = make_base(tmp_path)
    (base / "model" / name).unlink()
    os.mkfifo(base / "model" / name)
    for words in (
        ["export", "--model", str(base / "model"), "--to", "native", "--output_dir", str(tmp_path / "out")],
        ["card", str(base / "model"), "--print"],
    ):
        command = [sys.executable, "-m", "expert_condenser", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if words[0] == "card" and name != "config.json":
            assert done.returncode == 0, "of these a card reads nothing"
        else:
            assert done.returncode == 2, done.stderr
            assert "Traceback" not in done.stderr


NO_MODEL = {
    "no heads": {"num_attention_heads": 0},
    "more choices than experts": {"num_experts_per_tok": 99},
    "fewer than one choice": {"num_experts_per_tok": -1},
    "an unknown activation": {"hidden_act": "none of these"},
    "a pad token that is none": {"pad_token_id": 10**9},
    "an unknown type": {"model_type": "none of these"},
    "a text for a number": {"num_experts_per_tok": "a"},
    "a vocabulary of two billions": {"vocab_size": 2**31},
}


@pytest.mark.parametrize("what", NO_MODEL)
def test_every_command_says_what_is_wrong_with_a_config(what, tmp_path, capsys):
    base = make_base(tmp_path)
    model, rows = str(base / "model"), str(base / "rows.jsonl")
    edit_json(base / "model" / "config.json", lambda content: content.update(NO_MODEL[what]))
    out = str(tmp_path / "out")
    commands = {
        "train": ["--model", model, "--data", rows, "--method", "sft", "--output_dir", out, "--use_cpu", "--no_bf16"],
        "plan": ["--model", model, "--method", "sft", "--devices", "1", "--memory", "80GB"],
        "analyze": ["usage", "--model", model, "--data", rows, "--split", "train", "--output_dir", out],
        "export": ["--model", model, "--to", "native", "--output_dir", out],
    }
    for name, words in commands.items():
        assert main([name, *words]) == 2, name
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        assert printed.count(f"condenser {name}:") == 1
