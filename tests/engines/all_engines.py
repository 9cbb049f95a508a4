"""Every engine against one process, on two gloo processes: `make engines`. Its name keeps it out of the other targets.

It writes `results.json`, from which the table of docs/engines.md is made.
"""

import json

import pytest
from safetensors.torch import load_file

from expert_condenser.training.engines import ENGINES
from tests import runs
from tests.engines.cases import TOLERANCE
from tests.engines.comparison import Bench, slug
from tests.engines.table import COLUMNS, RESULTS, ROWS, reason
from tests.short_run import launched

pytest.importorskip("deepspeed")
CONDENSER = slug("olmoe", "condenser")
CONTROLS = {
    "another_rate": ("olmoe", "sft", {"changes": {"learning_rate": 0.11}}),
    "own_counts": ("olmoe", "condenser", {"control": "counts of one process"}),
    "another_bias": ("olmoe", "condenser", {"control": "another bias on one rank"}),
    "stale_slices": ("olmoe", "esft_gate", {"control": "slices not written again"}),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The runs of one process."""
    made = Bench(tmp_path_factory.mktemp("engines"))
    made.run("one_process", [made.case("one_process", *row) for row in ROWS])
    return made


@pytest.fixture(scope="module", params=COLUMNS)
def engine(request, bench):
    """An engine that has run all cases, and the controls."""
    controls = [bench.case(request.param, f, m, name, **more) for name, (f, m, more) in CONTROLS.items()]
    bench.run(request.param, [*(bench.case(request.param, *row) for row in ROWS), *controls])
    return request.param


@pytest.mark.parametrize(("family", "method"), ROWS)
def test_the_run_equals_that_of_one_process(bench, engine, family, method):
    name, why = slug(family, method), reason(method, engine)
    if why is None:
        found = bench.assert_equal(engine, name)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results.setdefault(f"{family}: {method}", {})[engine] = found
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    else:
        assert bench.refused(engine, name).startswith(f"TrainingError: {why}. ")
        assert not (bench.folder / engine / name).exists(), "nothing was written"


def test_controls_differ(bench, engine):
    bench.assert_differs(engine, "another_rate", slug("olmoe", "sft"))
    bench.assert_differs(engine, "own_counts", CONDENSER)
    assert "every process has the same selection bias" in bench.refused(engine, "another_bias")
    if engine == "fsdp2":  # the others keep what the forward has seen
        bench.assert_differs(engine, "stale_slices", slug("olmoe", "esft_gate"))


RESUMES = [("ddp", "one_process"), ("ddp", "fsdp2"), ("fsdp2", "one_process"), ("one_process", "fsdp2")]
RESUMES += [("fsdp2", "fsdp2"), ("ep", "ep"), ("ep", "one_process"), ("one_process", "ep"), ("zero3", "zero3")]
ADAM = {"optim": "adamw_torch", "learning_rate": 1e-3, "adam_epsilon": 1e-3}
STOPS = {"condenser": ("sparsify", 8), "esft_gate": ("train", 13), "sft, lora": ("train", 13)}


@pytest.fixture(scope="module")
def whole(bench):
    """Runs of one process with AdamW, never interrupted."""
    cases = [bench.case("one_process", "olmoe", m, f"whole-{m}", changes=ADAM) for m in STOPS]
    bench.run("one_process", cases)
    return bench


def resumed(bench, first, second, methods):
    """Runs that stop on one engine and go on on another, in one folder; their names."""
    names = {method: f"{first}-{second}-{method}" for method in methods}
    cases = [bench.case(first, "olmoe", m, names[m], changes=ADAM, stop=STOPS[m]) for m in methods]
    bench.run(first, cases)
    again = [bench.case(second, "olmoe", m, changes={**ADAM, "resume": True}) for m in methods]
    bench.run(second, [{**case, "folder": cases[index]["folder"]} for index, case in enumerate(again)])
    return names


@pytest.mark.parametrize(("first", "second"), RESUMES)
def test_a_run_goes_on_in_another_engine(whole, first, second):
    methods = ("condenser",) if "ep" in (first, second) else tuple(STOPS)
    for method, name in resumed(whole, first, second, methods).items():
        whole.assert_equal(first, name, f"whole-{method}")


@pytest.mark.parametrize(("first", "second"), [("zero3", "one_process"), ("one_process", "zero3")])
def test_what_deepspeed_wrote_is_for_deepspeed(whole, first, second):
    for name in resumed(whole, first, second, ("condenser",)).values():
        assert "the optimizer's state in" in whole.refused(first, name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A base, and a run of one process by the command line."""
    base = runs.make_base(tmp_path_factory.mktemp("base"))
    done = launched(base, base / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    return base


@pytest.mark.parametrize("name", ENGINES)
def test_one_command_starts_every_engine(alone, tmp_path, name):
    done = launched(alone, tmp_path / "run", name)
    if name == "fsdp2_offload":
        assert (done.returncode, "the run is on CPUs; take fsdp2" in done.stderr) == (2, True)
        return
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["finished"], record["engine"], record["processes"]) == (True, name, 2)
    found, expected = (load_file(run / "run" / "model" / "model.safetensors") for run in (tmp_path, alone))
    assert found.keys() == expected.keys()
    allowed = (
        1e-5 if name == "zero3_offload" else TOLERANCE
    )  # its AdamW is DeepSpeed's own for CPUs, which rounds otherwise
    assert max(float((found[key] - expected[key]).abs().max()) for key in found) < allowed
