"""What each engine keeps on a device: whose share of what, in which precision, and what it needs to communicate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from expert_condenser.planning.optimizers import state_bytes
from expert_condenser.planning.sizes import Sizes, Unit, Weights
from expert_condenser.planning.trace import Trace

_BUCKET = 500_000_000
"""DeepSpeed's reduce and gather buckets, numbers in each, unless the configuration says otherwise."""
_PREFETCH = 50_000_000
"""What ZeRO-3 gathers ahead, in numbers."""
ITEMS = (
    *("parameters", "master_weights", "gradients", "optimizer"),
    *("activations", "logits", "buffers", "communication"),
)


@dataclass(frozen=True)
class Engine:
    """How one engine keeps a model. A flag says that each of N devices keeps an Nth."""

    name: str
    splits_parameters: bool = False
    splits_gradients: bool = False
    splits_optimizer: bool = False
    masters: bool = False
    """Computes in the half precision of autocast, and steps float32 weights beside (DeepSpeed)."""
    upcasts: bool = False
    """Keeps what trains in float32 and gathers it in the half precision of autocast (accelerate's FSDP2)."""
    offloads: bool = False
    """Parameters, gradients and optimizer wait in the host's memory."""
    needs_several: bool = True
    keeps: str = ""
    """In words, for a table."""


ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            Engine("one_process", needs_several=False, keeps="all, in the recipe's dtype"),
            Engine("ddp", keeps="all on every device, and the gradients once more in buckets"),
            Engine("fsdp2", True, True, True, upcasts=True, keeps="an Nth of all; a layer whole while it computes"),
            Engine("zero2", False, True, True, masters=True, keeps="all parameters, an Nth of gradients and optimizer"),
            Engine("zero3", True, True, True, masters=True, keeps="an Nth of all; a layer whole while it computes"),
            Engine(
                "zero3_offload", True, True, True, masters=True, offloads=True, keeps="zero3, kept in the host's memory"
            ),
            Engine(
                "fsdp2_offload", True, True, True, upcasts=True, offloads=True, keeps="fsdp2, kept in the host's memory"
            ),
            Engine("ep", True, True, True, keeps="an Nth of the experts, whole ones; the rest as fsdp2"),
        )
    }
)


@dataclass(frozen=True)
class Setting:
    """What an engine's bytes depend on beside model and trace."""

    devices: int
    optimizer: str
    half: int | None
    """Bytes of a number in autocast's half precision; None without autocast."""
    pairs: int
    """Token-expert pairs of one layer and micro-batch."""
    hidden: int
    master_weights: bool | None = None
    """Float32 weights for the optimizer: whether, where it is not left (None) to the engine."""


@dataclass(frozen=True)
class Kept:
    """Bytes of one engine."""

    device: dict[str, int]
    host: int
    precision: dict[str, str]

    @property
    def total(self) -> int:
        """Bytes of a device at the highest moment."""
        return sum(self.device.values())


def computes_in_half(engine: Engine, setting: Setting) -> bool:
    """Whether the weights that a layer computes with are in half precision already, and not cast by autocast."""
    return setting.half is not None and (engine.masters or engine.upcasts)


def kept_by(engine: Engine, sizes: Sizes, trace: Trace, setting: Setting) -> Kept:
    """The bytes that one device keeps, by item; their sum is its highest moment.

    Gradients are counted whole: of activations only what stands on top of them at the highest moment.
    """
    stored, trained, masters = _precision(engine, setting)
    devices = setting.devices

    def part(whole: int, divided: bool) -> int:
        return -(-whole // devices) if divided else whole

    learns: Callable[[Weights], bool] = lambda w: w.trains  # noqa: E731
    gradients = sizes.bytes(trained, learns)
    items = {
        "parameters": part(sizes.bytes(stored), engine.splits_parameters),
        "master_weights": part(sizes.bytes(lambda _: 4, learns) if masters else 0, engine.splits_optimizer),
        "gradients": part(gradients, engine.splits_gradients),
        "optimizer": part(
            state_bytes(setting.optimizer, sizes.weights, 4 if masters or _upcast(engine, setting) else None),
            engine.splits_optimizer,
        ),
    }
    waiting = sum(items.values()) if engine.offloads else 0
    if engine.offloads:
        items = dict.fromkeys(items, 0)
    items |= _on_top(trace, items["gradients"])
    items["buffers"] = sizes.buffers + trace.scratch
    items["communication"] = _communication(engine, sizes, setting, gradients)
    return Kept(
        {name: items[name] for name in ITEMS}, waiting, _words(engine, setting, sizes, stored, trained, masters)
    )


def _on_top(trace: Trace, gradients: int) -> dict[str, int]:
    """Activations and logits at the highest moment, beyond the gradients that are there in the end."""
    full = trace.moments[-1].gradients if trace.moments else 0
    highest = trace.peak(gradients / full if full else 0.0)
    rest = max(sum(highest) - gradients - trace.scratch, 0)
    logits = min(highest.logits, rest)
    return {"activations": rest - logits, "logits": logits}


def _upcast(engine: Engine, setting: Setting) -> bool:
    asked = setting.master_weights
    return engine.upcasts and (setting.half is not None if asked is None else asked)


def _precision(engine: Engine, setting: Setting) -> tuple[Callable[[Weights], int], Callable[[Weights], int], bool]:
    """Bytes of a stored number, of a gradient's, and whether there are master weights."""
    half = setting.half
    if engine.masters and half is not None:
        masters = setting.master_weights is not False
        return lambda _: half, lambda _: half, masters
    if _upcast(engine, setting):
        return lambda w: 4 if w.trains else w.itemsize, lambda _: 4, False
    masters = bool(setting.master_weights) and not engine.upcasts
    return lambda w: w.itemsize, lambda w: w.itemsize, masters


def _words(
    engine: Engine,
    setting: Setting,
    sizes: Sizes,
    stored: Callable[[Weights], int],
    trained: Callable[[Weights], int],
    masters: bool,
) -> dict[str, str]:
    first = next((w for w in sizes.weights if w.trains), sizes.weights[0])
    names = {8: "float64", 4: "float32", 2: "half", 1: "8 bit"}
    step = 4 if masters else stored(first)
    computes = setting.half if setting.half is not None else stored(first)
    return {
        "parameters": names[stored(first)],
        "gradients": names[trained(first)],
        "step": names[step],
        "compute": names[computes],
        "selection_bias": "float32",
    }


def _communication(engine: Engine, sizes: Sizes, setting: Setting, gradients: int) -> int:
    """Buffers that hold what is gathered or reduced at one time."""
    width = setting.half or max((w.itemsize for w in sizes.weights), default=4)
    if engine.name == "one_process" or (setting.devices == 1 and not engine.offloads):
        return 0
    if engine.name == "ddp":
        return gradients
    if engine.name == "zero2":
        return 2 * min(_BUCKET, sizes.trainable) * width
    gathered = sizes.largest_units()[:2]
    if engine.masters:
        first, ahead = (u.parameters for u in (*gathered, *(2 * [Unit("", 0, 0, 0)]))[:2])
        reduced = min(_BUCKET, max((u.trainable for u in sizes.units), default=0))
        return (first + min(_PREFETCH, ahead) + reduced) * width
    if engine.name == "ep":
        moved = 2 * setting.pairs * setting.hidden  # rows that go to their expert's device and come back
        return (sum(u.parameters - u.experts for u in (*gathered, sizes.root)) + moved) * width
    reduced = 2 * max((u.trainable for u in gathered), default=0)  # a layer's gradient, and its copy that is reduced
    return (sum(u.parameters for u in (*gathered, sizes.root)) + reduced) * width
