"""What to change first where a training does not fit: what saves most for little cost, with the bytes that it saves."""

from expert_condenser.planning.engines import ENGINES
from expert_condenser.planning.optimizers import state_bytes
from expert_condenser.planning.plan import Plan, Planner
from expert_condenser.planning.units import shown


def advise(planner: Planner, plan: Plan) -> list[str]:
    """One sentence per change, in the order in which to try them; where it fits, on which engines."""
    usable = {name: outlook for name, outlook in plan.engines.items() if outlook.refused is None}
    fitting = [name for name, outlook in usable.items() if outlook.fits]
    if fitting:
        return [f"it fits on {', '.join(fitting)}; the first of them communicates least"]
    engine = min(usable, key=lambda name: usable[name].kept.total)
    return [
        f"nothing fits: the smallest is {engine}, {shown(usable[engine].kept.total)} of {shown(plan.machine.memory)}",
        *_of_activations(planner, plan, engine),
        *_of_weights(planner, plan, engine),
        f"take more devices than {plan.machine.devices}: engines that split the model divide what they keep",
    ]


def _of_activations(planner: Planner, plan: Plan, engine: str) -> list[str]:
    advice = []
    now = plan.engines[engine].kept
    if not planner.checkpoints:
        other = planner.outlook(ENGINES[engine], checkpointing=True).kept
        advice.append(
            f"gradient_checkpointing true saves {shown(now.total - other.total)}, for a third more computing"
        )
    grows = now.device["activations"]
    if planner.batch.rows > 1:
        advice.append(
            f"per_device_train_batch_size 1 saves about {shown(grows - grows // planner.batch.rows)}; raise "
            "gradient_accumulation_steps by the same factor"
        )
    advice.append(f"half of max_length ({planner.batch.length // 2}) saves about {shown(grows // 2)}")
    return advice


def _of_weights(planner: Planner, plan: Plan, engine: str) -> list[str]:
    if planner.recipe.adapter.lora is not None:
        return []
    kept = plan.engines[engine].kept.device
    learnt = kept["gradients"] + kept["optimizer"] + kept["master_weights"]
    advice = [f"lora attention+experts, or method esft_gate, saves most of {shown(learnt)}"] if learnt else []
    optimizer = planner.setting().optimizer
    if kept["optimizer"] and "bit" not in optimizer:
        whole = state_bytes(optimizer, planner.sizes.weights)
        small = state_bytes("adamw_8bit", planner.sizes.weights)
        if small < whole:
            saved = round(kept["optimizer"] * (1 - small / whole))
            advice.append(f"optim adamw_8bit (bitsandbytes) saves {shown(saved)}")
    return advice
