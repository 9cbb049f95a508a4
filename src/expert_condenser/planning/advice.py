"""What to change first where a training does not fit: what saves most for little cost, with the bytes that it saves."""

from collections.abc import Mapping

from expert_condenser.planning.engines import ENGINES
from expert_condenser.planning.optimizers import state_bytes
from expert_condenser.planning.planner import Outlook, Planner
from expert_condenser.planning.units import shown

_SMALL = "adamw_8bit"


def advise(planner: Planner, engines: Mapping[str, Outlook]) -> list[str]:
    """One sentence per change, in the order in which to try them; where it fits, on which engines."""
    usable = {name: outlook for name, outlook in engines.items() if outlook.refused is None}
    fitting = [name for name, outlook in usable.items() if outlook.fits]
    if fitting:
        return [f"it fits on {', '.join(fitting)}"]
    name = min(usable, key=lambda name: usable[name].kept.total)
    lacking = usable[name].kept.total - planner.machine.memory
    return [
        f"it fits on no engine; the least is {name}, {shown(lacking)} more than there are",
        *_of_activations(planner, name, usable[name]),
        *_of_weights(planner, usable[name]),
        f"more devices than {planner.machine.devices}: engines that split a model divide what they keep of it",
    ]


def _of_activations(planner: Planner, name: str, outlook: Outlook) -> list[str]:
    advice = []
    if not planner.checkpoints:
        saved = outlook.kept.total - planner.outlook(ENGINES[name], checkpointing=True).kept.total
        advice.append(f"gradient_checkpointing true saves {shown(saved)}, for a third more computing")
    grows = outlook.kept.device["activations"] + outlook.kept.device["logits"]
    rows = planner.batch.rows
    if rows > 1:
        advice.append(
            f"per_device_train_batch_size 1 saves about {shown(grows - grows // rows)}; gradient_accumulation_steps "
            f"times {rows} keeps the batch"
        )
    advice.append(f"max_length {planner.batch.length // 2} saves about {shown(grows // 2)}")
    return advice


def _of_weights(planner: Planner, outlook: Outlook) -> list[str]:
    kept = outlook.kept.device
    learnt = kept["gradients"] + kept["optimizer"] + kept["master_weights"]
    if not learnt:
        return []
    advice = []
    if planner.recipe.adapter.lora is None:
        advice.append(f"lora attention+experts, or method esft_gate, saves most of {shown(learnt)}")
    weights, optimizer = planner.sizes.weights, planner.setting().optimizer
    share = state_bytes(_SMALL, weights) / max(state_bytes(optimizer, weights), 1)
    if share < 1:
        advice.append(f"optim {_SMALL} (bitsandbytes) saves {shown(kept['optimizer'] * (1 - share))}")
    return advice
