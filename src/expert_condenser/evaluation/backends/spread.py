"""Several devices for one evaluation: a process for each, and every batch goes to the next one that is free.

Batches are those of one device, and their answers come back in order, so the files are the same.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import EvaluationError, ExpertCondenserError
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.generation import Answer, Generation
from expert_condenser.evaluation.identity import identity_of
from expert_condenser.evaluation.likelihood import mean_nll
from expert_condenser.evaluation.prompts import Continuation, Prompt
from expert_condenser.evaluation.teacher_forced import TeacherForced
from expert_condenser.kernels.buffers import keep_freed_memory
from expert_condenser.kernels.threads import threads_each
from expert_condenser.ownership import Owner, end_with


class SpreadBackend:
    """`with SpreadBackend(name, tokenizer, ["cuda:0", "cuda:1"]) as backend:` has a `LocalBackend` on each device."""

    def __init__(
        self, name: str | Path, tokenizer: PreTrainedTokenizerBase, devices: Sequence[str], *, dtype: str = "float32"
    ) -> None:
        self.tokenizer, self.devices = tokenizer, list(devices)
        self.identity = identity_of(name, backend="transformers", dtype=dtype)
        self._made_of = (str(name), tokenizer, dtype)
        self._workers: list[_Worker] = []
        self._free: Queue[_Worker] = Queue()

    @property
    def at_once(self) -> int:
        """A batch for each device."""
        return len(self.devices)

    def __enter__(self) -> "SpreadBackend":
        threads = threads_each(len(self.devices))
        for device in self.devices:
            worker = _Worker(device, (*self._made_of, device, threads, Owner.here("eval")))
            self._workers.append(worker)
            self._free.put(worker)
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.process.kill()  # it has nothing that is not here
            worker.process.join()

    def generate(self, prompts: list[str], max_new_tokens: int, generation: Generation, seed: int) -> list[Answer]:
        """As `LocalBackend.generate`."""
        return self._ask("generate", prompts, max_new_tokens, generation, seed)

    def nll(self, prompts: Sequence[Prompt], references: Sequence[str], batch_size: int) -> float | None:
        """As `LocalBackend.nll`, to the bit: batches are shared, and summed in their order."""
        count = self.at_once
        with ThreadPoolExecutor(count) as pool:
            parts = pool.map(lambda n: self._ask("batch_nlls", prompts, references, batch_size, n, count), range(count))
            in_order = chain.from_iterable(zip_longest(*parts))
            return mean_nll([batch for batch in in_order if batch is not None])

    def log_likelihoods(self, pairs: Sequence[Continuation], batch_size: int) -> list[float]:
        """As `LocalBackend.log_likelihoods`."""
        return self._ask("log_likelihoods", pairs, batch_size)

    def teacher_forced(self, prompts: Sequence[Prompt], references: Sequence[str], batch_size: int) -> TeacherForced:
        """As `LocalBackend.teacher_forced`."""
        return self._ask("teacher_forced", prompts, references, batch_size)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What a free worker answers; the template goes along, which shows the day of this evaluation."""
        worker = self._free.get()
        try:
            return worker.ask(method, self.tokenizer.chat_template, arguments)
        finally:
            self._free.put(worker)


class _Worker:
    """A process with a model on one device."""

    def __init__(self, device: str, arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.device = device
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here

    def ask(self, *asked: Any) -> Any:
        """Raises `EvaluationError` where it fails there, or the process is gone."""
        try:
            self.connection.send(asked)
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise EvaluationError(
                f"the process of the device {self.device} ended before it answered ({error!r}), as it does without "
                "memory; what is answered is kept: take a smaller --batch_size, or fewer devices, and start again"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(
    connection: Any,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
    device: str,
    threads: int,
    parent: Owner,
) -> None:
    """Answer until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the one that asks, which ends this
    end_with(parent)
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()  # of this process alone
    backend = LocalBackend(name, tokenizer, dtype=dtype, device=device)
    while True:
        try:
            method, tokenizer.chat_template, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(getattr(backend, method)(*arguments))
        except ExpertCondenserError as error:
            connection.send(error)
        except Exception as error:  # of any library: not all can be sent
            connection.send(EvaluationError(f"on the device {device}: {error!r}"))
