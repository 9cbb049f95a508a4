"""`condenser bench`: the arms are what they are called, turns are fair, the report has the promised fields."""

import itertools
import json
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from expert_condenser import moe_layers
from expert_condenser.bench import benchmark as run
from expert_condenser.bench import measure
from expert_condenser.bench.arms import ARMS, arms_of, prepare
from expert_condenser.bench.benchmark import too_large
from expert_condenser.bench.measure import Measurement, compare, peak_memory
from expert_condenser.bench.roofline import dense_products, grouped_products
from expert_condenser.bench.shapes import SHAPES, Shape, share_storage
from expert_condenser.bench.workloads import LayerWork, Setting, active_parameters
from expert_condenser.cli.main import main
from expert_condenser.errors import BenchmarkError
from expert_condenser.moe.experts import NAME

TINY = Shape("olmoe", 32, 16, 8, 3, tokens=24, options={"num_attention_heads": 2})
SETTING = Setting(TINY, "cpu", torch.float32, "eager")
SIZES = ("--tokens", "128", "--experts", "8", "--top-k", "3", "--hidden", "64", "--intermediate", "16")
FIELDS = {"median_s", "iqr_s", "tokens_per_s", "flops_per_s", "peak_mb"}


def report_of(tmp_path, *words):
    path = tmp_path / "report.json"
    assert main(["bench", *words, "--json", str(path), "--rounds", "2", "--threads", "1"]) == 0
    return json.loads(path.read_text())


def expert_calls(model, run):
    """How many token-expert pairs each call of the first layer's experts had."""
    calls = []
    experts = moe_layers(model)[0].experts
    handle = experts.register_forward_pre_hook(lambda module, args: calls.append(args[1].numel()))
    run()
    handle.remove()
    return calls


def test_a_layer_report_has_the_promised_fields(tmp_path, capsys):
    report = report_of(tmp_path, "layer", "--device", "cpu", *SIZES)
    assert set(report["arms"]) == set(ARMS)
    assert all(set(arm) > FIELDS and arm["median_s"] > 0 and arm["flops_per_s"] > 0 for arm in report["arms"].values())
    assert report["shape_name"] == "small"
    assert report["shape"] == {"T": 128, "E": 8, "K": 3, "D": 64, "I": 16, "L": 1, "family": "olmoe"}
    assert (report["dtype"], report["device"]) == ("float32", "cpu")
    assert report["roofline_flops_per_s"] > 0
    assert report["roofline_grouped_flops_per_s"] > 0
    assert {"torch", "transformers"} < set(report["versions"])
    assert report["arms"]["sft"]["ratio"] == 1.0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ARMS)


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "small"])
def test_every_shape_has_its_familys_layer(tmp_path, shape):
    sizes = ("--tokens", "16", "--experts", "8", "--top-k", "3", "--hidden", "64", "--intermediate", "16")
    report = report_of(tmp_path, "layer", "--shape", shape, *sizes, "--arms", "sft,condenser,experts:ours")
    assert report["shape"]["family"] == SHAPES[shape].family
    assert set(report["arms"]) == {"sft", "condenser", "experts:ours"}


def test_a_training_report_says_what_the_callback_takes(tmp_path):
    report = report_of(tmp_path, "train", *SIZES, "--layers", "2", "--arms", "sft,condenser,sft_aux,condenser@eager")
    assert all(0 < arm["callback_share"] < 1 for arm in report["arms"].values())
    assert all(set(arm) > FIELDS for arm in report["arms"].values())
    assert report["weights_mb"] > 0


def test_a_generation_report_counts_new_tokens(tmp_path):
    arm = report_of(tmp_path, "generate", *SIZES, "--arms", "sft")["arms"]["sft"]
    assert arm["tokens_per_s"] == pytest.approx(32 / arm["median_s"])  # one row fits into 128 tokens


def test_a_sweep_is_one_report_per_value(tmp_path):
    content = report_of(tmp_path, "layer", *SIZES, "--arms", "sft", "--sweep", "tokens=16,32")
    assert [report["shape"]["T"] for report in content["reports"]] == [16, 32]


def test_sizes_of_the_published_models():
    sizes = {name: (s.hidden, s.intermediate, s.experts, s.top_k) for name, s in SHAPES.items()}
    assert sizes["olmoe"] == (2048, 1024, 64, 8)
    assert sizes["qwen1.5-moe"] == (2048, 1408, 60, 4)
    assert sizes["deepseek-v2-lite"] == (2048, 1408, 64, 6)
    assert sizes["gpt-oss"] == (2880, 2880, 32, 4)
    assert sizes["small"] == (512, 256, 64, 8)
    assert SHAPES["small"].tokens == 2048
    assert SHAPES["small"].expert_flops() == 3 * 2 * 2048 * 8 * 3 * 512 * 256


def test_active_parameters_are_those_that_a_token_meets():
    model = TINY.model("cpu", torch.float32)
    experts = moe_layers(model)[0].experts
    one = sum(parameter.numel() for parameter in experts.parameters()) // TINY.experts
    others = sum(p.numel() for p in model.parameters()) - TINY.experts * one
    assert active_parameters(model) == others + TINY.top_k * one


def test_only_the_slices_of_esft_are_weights_of_its_own():
    model = TINY.model("cpu", torch.float32)
    assert run.own_weights(LayerWork(ARMS["sft"], model, SETTING).model, model) == 0
    esft = LayerWork(ARMS["esft_gate"], model, SETTING).model
    experts = moe_layers(esft)[0].experts
    one = sum(p.numel() * 4 for p in experts.parameters(recurse=False)) // TINY.experts
    assert run.own_weights(esft, model) == pytest.approx(len(experts.ids()) * one / 2**20)


def test_arms_share_weights_and_not_gradients():
    model = TINY.model("cpu", torch.float32)
    first, second = share_storage(model), share_storage(model)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert a.data_ptr() == b.data_ptr()
        assert a is not b
    next(first.parameters()).grad = torch.ones_like(next(first.parameters()))
    assert next(second.parameters()).grad is None


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("sft", [72]),
        ("condenser", [72]),
        ("condenser_additive", [24 * 5]),
        ("densemixer", [24 * 8]),
        ("authors_double", [24 * 5, 24 * 5]),
        ("esft_gate", [72]),
        ("experts:eager", [72]),
    ],
)
def test_an_arm_computes_what_it_says(name, pairs):
    work = LayerWork(ARMS[name], TINY.model("cpu", torch.float32), SETTING)
    assert expert_calls(work.model, work) == pairs
    assert all(count == TINY.tokens * ARMS[name].slots(TINY) for count in pairs)
    assert moe_layers(work.model)[0].router.counter.counts.sum() > 0, "usage is counted"


def test_an_arm_runs_on_its_experts_implementation():
    for name, expected in {"sft": "eager", "experts:ours": NAME, "condenser@grouped_mm": "grouped_mm"}.items():
        model = share_storage(TINY.model("cpu", torch.float32))
        prepare(arms_of([name])[name], model, "eager")
        assert model.config._experts_implementation == expected


def test_turns_go_forth_and_back():
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "abc"}
    results = compare(steps, rounds=3, seconds=100.0, device="cpu", advance=lambda count: order.append(str(count)))
    assert "".join(order) == "cba" + "abc1" + "cba1" + "abc1"
    assert all(len(result.seconds) == 3 for result in results.values())


def test_time_bounds_the_rounds_but_two_are_made():
    results = compare({"a": lambda: None}, rounds=100, seconds=0.0, device="cpu")
    assert len(results["a"].seconds) == 2


def test_figures_of_a_measurement():
    one, other = Measurement([1.0, 2.0, 3.0, 4.0, 5.0]), Measurement([1.0, 1.0, 2.0, 8.0, 1.0])
    assert (one.median, one.spread) == (3.0, 2.0)
    assert one.ratio_to(other) == 1.5


def test_reports_are_shown_again_as_markdown(tmp_path, capsys):
    one = report_of(tmp_path, "layer", *SIZES, "--arms", "sft,experts:ours")
    capsys.readouterr()
    assert main(["bench", "show", str(tmp_path / "report.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| arm | ms |")
    assert [line.split("|")[1].strip() for line in lines[4:6]] == ["sft", "experts:ours"]
    assert f"{one['arms']['sft']['median_s'] * 1e3:,.1f}" in lines[4]
    report_of(tmp_path, "layer", *SIZES, "--arms", "sft,condenser", "--sweep", "tokens=64,128")
    capsys.readouterr()
    assert main(["bench", "show", str(tmp_path / "report.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| tokens | sft ms | condenser ms | sft of dense |"
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["64", "128"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", None])
def test_show_refuses_what_is_no_report(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert main(["bench", "show", str(tmp_path / "report.json")]) == 2
    assert "show prints files that --json wrote" in capsys.readouterr().err


def test_show_without_a_file_is_an_error(capsys):
    assert main(["bench", "show"]) == 2
    assert "bench show takes files that --json wrote, and got none" in capsys.readouterr().err


def test_a_spread_needs_two_rounds(capsys):
    assert main(["bench", "layer", "--rounds", "1"]) == 2
    assert "--rounds: at least 2; got 1" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the resident set can be reset on Linux only")
def test_peak_memory_is_that_of_the_call():
    held = torch.ones(30_000_000)
    peak = peak_memory([lambda: torch.ones(20_000_000)], "cpu")
    assert 70 < peak < 110
    assert held[0] == 1
    assert peak_memory([lambda: None], "cpu") < 20


def test_rooflines_have_the_flops_of_the_experts():
    for make, shape in itertools.product((dense_products, grouped_products), (TINY, replace(TINY, shared=40))):
        step = make(shape, "cpu", torch.float32)
        with FlopCounterMode(display=False) as counter:
            step()
        assert counter.get_total_flops() == shape.expert_flops()


def test_what_does_not_fit_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(run, "available_memory", lambda: 1000.0)
    setting = Setting(SHAPES["small"], "cpu", torch.float32, NAME)
    assert "72 GB" in too_large(ARMS["experts:batched_mm"], setting)
    assert too_large(ARMS["experts:ours"], setting) is None
    with pytest.raises(BenchmarkError, match="no arm fits into memory"):
        run.benchmark("layer", ["experts:batched_mm"], setting, rounds=2, seconds=1.0)
    assert measure.available_memory() > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "sft,nothing"], "an arm is one of sft, condenser, .*; got 'nothing'"),
        (["--arms", "sft@nothing"], "with @ and an experts implementation"),
        (["--sweep", "depth=1,2"], "--sweep is SIZE=A,B"),
        (["--sweep", "tokens=1,x"], "--sweep is SIZE=A,B"),
        (["--keep-freed-memory", "--device", "cuda"], "--device names a device of this machine"),
        (["--experts", "4", "--top-k", "8"], "at most as many experts as there are: K = 8, E = 4"),
        (["--device", "cuda"], "--device names a device of this machine"),
    ],
)
def test_bad_input_is_an_error_before_anything_runs(words, message, capsys, monkeypatch):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr(Shape, "model", lambda *args: pytest.fail("a model was made"))
    assert main(["bench", "layer", *words]) == 2
    error = capsys.readouterr().err
    assert message.split(".*")[0] in error
    assert message.split(".*")[-1] in error
