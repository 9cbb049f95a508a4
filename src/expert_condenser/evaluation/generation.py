"""How answers are decoded, and what an answer is."""

from dataclasses import dataclass

from expert_condenser.errors import EvaluationError


@dataclass(frozen=True)
class Generation:
    """How answers are decoded: greedy by default, or `samples` answers to each question at a temperature."""

    batch_size: int = 64
    max_new_tokens: int | None = None
    """None: as many as the task's answers need."""
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `EvaluationError` where an option has no meaning."""
        for name in ("batch_size", "samples", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EvaluationError(f"{name} is 1 or more; got {value}")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise EvaluationError(
                f"temperature is 0 (greedy) or more and top_p in (0, 1]; got {self.temperature} and {self.top_p}"
            )
        if self.temperature == 0 and (self.samples > 1 or self.top_p < 1):
            raise EvaluationError(
                f"greedy decoding gives one answer, so samples = {self.samples} and top_p = {self.top_p} have no "
                "effect; set a temperature above 0"
            )

    def check_nothing_is_decoded(self, mode: str) -> None:
        """Raise `EvaluationError` on options of decoding, which have no effect in a mode that decodes nothing."""
        if self != Generation(batch_size=self.batch_size, seed=self.seed):
            raise EvaluationError(
                f"mode {mode} decodes nothing, so samples, temperature, top_p and max_new_tokens have no effect; leave "
                "them out"
            )


@dataclass(frozen=True)
class Answer:
    """A generated text without special tokens, its number of tokens, and whether the model ended it."""

    text: str
    tokens: int
    ended: bool
    raw: str | None = None
    """The text with its special tokens, up to the one that ended it; None where that is the same, or not known."""
