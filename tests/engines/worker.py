"""Run in every process of an engine: whole trainings, as `condenser train` makes them, one after the other."""

import json
import os
import sys
import traceback
from pathlib import Path

import torch
import yaml

from expert_condenser.errors import ExpertCondenserError
from expert_condenser.training import phase
from expert_condenser.training.engines import DEEPSPEED, ENGINES, expert_parallel
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.run import train
from tests.engines.controls import CONTROLS
from tests.runs import At, Interrupted, interrupt, with_callback

MAKE_TRAINER = phase.make_trainer


def variables(engine):
    """What accelerate's launcher makes of an engine's packaged file, as variables of the environment."""
    config = yaml.safe_load(ENGINES[engine].read_text())
    if config["distributed_type"] == "FSDP":
        found = {name.upper(): value for name, value in config["fsdp_config"].items()}
        return {**found, "ACCELERATE_USE_FSDP": True}
    if engine in DEEPSPEED:
        names = {"zero_stage": "ZERO_STAGE", "zero3_init_flag": "ZERO3_INIT"}
        names |= {"zero3_save_16bit_model": "ZERO3_SAVE_16BIT_MODEL", "offload_param_device": "OFFLOAD_PARAM_DEVICE"}
        names |= {"offload_optimizer_device": "OFFLOAD_OPTIMIZER_DEVICE"}
        found = {f"ACCELERATE_DEEPSPEED_{names[key]}": value for key, value in config["deepspeed_config"].items()}
        return {**found, "ACCELERATE_USE_DEEPSPEED": True}
    return {}


def prepare(engine):
    for name, value in variables(engine).items():
        os.environ[name] = str(value).lower() if isinstance(value, bool) else str(value)
    if engine == expert_parallel.EP:
        os.environ[expert_parallel.VARIABLE] = engine
    if engine.startswith("zero3"):
        phase.begin_phase = splitting_all(phase.begin_phase)


def splitting_all(begin):
    """ZeRO-3 leaves weights below 1e5 numbers whole, which is all of a tiny model: here it splits those too."""

    def begin_phase(args, *rest):
        begin(args, *rest)
        zero = args.deepspeed_plugin.deepspeed_config["zero_optimization"]
        zero["stage3_param_persistence_threshold"] = 0

    return begin_phase


def run_case(engine, case):
    """One training; of one that is refused, the reason is left in its place."""
    options = {**case["options"], "output_dir": case["folder"]}
    # accelerate reads `use_cpu` as the wish for no DeepSpeed; where there is no accelerator it takes the CPU anyway.
    options["use_cpu"] = engine not in DEEPSPEED
    stop = case.get("stop")
    phase.make_trainer = with_callback(stop[0], At("on_step_begin", stop[1], interrupt)) if stop else MAKE_TRAINER
    try:
        with CONTROLS[case.get("control")]():
            train(Recipe.of(**options))
    except Interrupted:
        pass
    except ExpertCondenserError as error:
        if os.environ.get("RANK", "0") == "0":
            Path(f"{case['folder']}.refused").write_text(f"{type(error).__name__}: {error}")


def main(engine, cases):
    if engine != "one_process":
        prepare(engine)
    for case in json.loads(Path(cases).read_text()):
        print(f"[{engine}] {case['folder']}", file=sys.stderr, flush=True)
        try:
            run_case(engine, case)
        except BaseException:
            Path(f"{case['folder']}.failed-{os.environ.get('RANK', '0')}").write_text(traceback.format_exc())
            raise
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
