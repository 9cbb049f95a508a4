"""The options of an adapter."""

from dataclasses import asdict, dataclass, field

from expert_condenser.errors import TrainingError

LORA = ("attention", "experts", "attention+experts")


@dataclass(frozen=True)
class AdapterConfig:
    """The options of an adapter."""

    lora: str | None = field(
        default=None, metadata={"help": "Train a LoRA adapter on 'attention', 'experts', or 'attention+experts'."}
    )
    lora_r: int = field(default=32, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=64, metadata={"help": "The adapter is scaled by lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapter; not on experts, routers."})
    lora_dora: bool = field(default=False, metadata={"help": "DoRA: learn magnitudes as well; on attention only."})

    def __post_init__(self) -> None:
        """Raise `TrainingError` where `lora` is no text: a YAML file may say anything."""
        if not isinstance(self.lora, str | None):
            raise TrainingError(f"lora is one of {', '.join(LORA)}; got {self.lora!r:.80}")

    def check(self, router: str | None) -> None:
        """Raise `TrainingError` on options that have no meaning, together with the option `router`."""
        targets = self.targets(router)
        if self.lora is None:
            defaults = AdapterConfig()
            idle = [name for name, value in asdict(defaults).items() if getattr(self, name) != value]
            if idle:
                raise TrainingError(f"{', '.join(idle)} is of an adapter, and there is none: set lora")
            return
        if self.lora not in LORA:
            raise TrainingError(f"lora is one of {', '.join(LORA)} (routers: router='lora'); got {self.lora!r}")
        if self.lora_r < 1 or self.lora_alpha < 1:
            raise TrainingError(f"lora_r and lora_alpha are at least 1; got {self.lora_r} and {self.lora_alpha}")
        if targets != ["attention"] and (self.lora_dropout or self.lora_dora):
            raise TrainingError(
                "PEFT adapts experts and routers as fused parameters, where neither lora_dropout nor lora_dora exists; "
                f"got lora={'+'.join(targets)}, lora_dropout={self.lora_dropout}, lora_dora={self.lora_dora}"
            )

    def targets(self, router: str | None) -> list[str]:
        """What the adapter acts on; the routers only if asked for by `router='lora'`."""
        parts = [] if self.lora is None else self.lora.split("+")
        return [*parts, "router"] if router == "lora" and parts else parts
