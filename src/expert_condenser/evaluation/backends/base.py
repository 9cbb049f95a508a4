"""What a backend is: an object that answers prompts and says what decides its answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from expert_condenser.evaluation.generation import Answer, Generation
from expert_condenser.evaluation.prompts import Continuation, Prompt
from expert_condenser.evaluation.teacher_forced import TeacherForced


@runtime_checkable
class Backend(Protocol):
    """A loaded model here, vLLM, lm-eval. Weights are loaded when they are first needed, not before."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the answers: `model`, `backend`, `dtype`, `weights`, as `identity_of` finds them."""

    def generate(self, prompts: list[str], max_new_tokens: int, generation: Generation, seed: int) -> list[Answer]:
        """One answer to every rendered prompt, in their order; `seed` decides all that is random."""

    def nll(self, prompts: Sequence[Prompt], references: Sequence[str], batch_size: int) -> float | None:
        """Mean nll in nats over all tokens of the reference answers; None from a backend that cannot tell."""


@runtime_checkable
class ScoringBackend(Backend, Protocol):
    """A backend that tells how likely the model finds texts that it is given, as `--mode likelihood` needs."""

    def log_likelihoods(self, pairs: Sequence[Continuation], batch_size: int) -> list[float]:
        """log p in nats of every continuation after its context, in their order; both are rendered already."""


@runtime_checkable
class ForcedBackend(Backend, Protocol):
    """A backend that tells what the model makes of every token of a reference, as `--mode teacher_forced` needs."""

    def teacher_forced(self, prompts: Sequence[Prompt], references: Sequence[str], batch_size: int) -> TeacherForced:
        """Whether greedy decoding writes each reference, and its nll; in their order."""


@runtime_checkable
class SharedBackend(Backend, Protocol):
    """A backend that can be asked for several batches at a time, from as many threads."""

    @property
    def at_once(self) -> int:
        """How many batches it answers at a time."""
