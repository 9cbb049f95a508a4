"""`condenser serve` and stock `transformers serve`, asked by the OpenAI client (`make serve-check`)."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.checkpoint.describe import describe_model
from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer

openai = pytest.importorskip("openai", reason="the extra serve")
pytest.importorskip("fastapi", reason="the extra serve")
QUESTIONS = ["What is 12 plus 30?", "Spell the word apple backwards.", "How many letters e are in the word seventeen?"]
TOKENS = 24
SERVERS = {
    "condenser": ["-m", "expert_condenser", "serve"],
    "stock": ["-m", "transformers.cli.transformers", "serve"],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The embedded base with a bias that changes what it says, and a condenser in every layer."""
    folder = tmp_path_factory.mktemp("tuned") / "model"
    model = attach(load_model(base_model_path()), RoutingConfig())
    for index, layer in enumerate(moe_layers(model)):
        layer.router.selection_bias.copy_(torch.linspace(-4, 4, layer.num_experts).roll(7 * index))
    set_condensers(model, {index: [index] for index in range(len(moe_layers(model)))})
    model.save_pretrained(folder)
    load_tokenizer(base_model_path()).save_pretrained(folder)
    describe_model(folder, {})
    return folder


def messages(question):
    return [{"role": "user", "content": question}]


def answers_of(folder):
    """What `generate` says, greedily."""
    model, tokenizer = load_model(folder).eval(), load_tokenizer(folder)
    found = []
    for question in QUESTIONS:
        ids = tokenizer.apply_chat_template(
            messages(question), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)
        found.append(tokenizer.decode(made[0, ids.input_ids.shape[1] :], skip_special_tokens=True))
    return found


@pytest.fixture
def served(source, tmp_path):
    """Starts a server, and asks it."""
    processes = []

    def run(name, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [str(source), "--port", str(port), "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
        variables = {**os.environ, "HF_HOME": str(tmp_path / name), "HF_HUB_OFFLINE": "1"}
        (tmp_path / name / "hub").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *SERVERS[name], *words, *options]
        with (tmp_path / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        processes.append(process)
        _wait(process, f"http://127.0.0.1:{port}/health", tmp_path / f"{name}.log")
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        options = {"model": str(source), "max_tokens": TOKENS, "temperature": 0}
        made = [client.chat.completions.create(messages=messages(question), **options) for question in QUESTIONS]
        return [answer.choices[0].message.content for answer in made]

    yield run
    for process in processes:
        process.terminate()
        process.wait(timeout=20)


def _wait(process, address, log, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def test_both_servers_say_what_generate_says_and_the_base_says_something_else(source, served):
    wanted = answers_of(source)
    assert wanted != answers_of(base_model_path()), "the routing must matter here"
    assert served("condenser") == wanted
    assert served("stock", "--trust-remote-code") == wanted
