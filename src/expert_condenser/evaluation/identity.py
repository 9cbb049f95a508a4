"""Which model answers: its weights by content, wherever they lie and whatever the folder is called."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from expert_condenser.files import read_json

BLOCK = 2**20
BLOCKS = 8
"""Blocks of a file that are read: the first, the last, and evenly spaced ones between them."""
_HEADER_LIMIT = 100_000_000
"""The longest header that safetensors allows, in bytes."""
_WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")


def identity_of(model: str | Path, *, backend: str, dtype: str) -> dict[str, Any]:
    """What decides a model's answers: `backend`, `dtype` and `weights`; `model` is what the user calls it."""
    return {"model": str(model), "backend": backend, "dtype": dtype, "weights": weights_of(model)}


def weights_of(model: str | Path) -> str:
    """Which weights: the digest of a directory, the commit of a hub model where the cache knows it, else the name."""
    folder = Path(model).expanduser()
    return (weights_digest(folder) if folder.is_dir() else _commit(str(model))) or str(model)


def weights_digest(folder: Path) -> str | None:
    """A fingerprint of the safetensors files of a directory; None where there are none.

    It is the SHA-256 over name, size, header (names, dtypes and shapes of all tensors) and `BLOCKS` blocks of 1 MiB of
    every file, so a model of 100 GB takes seconds. Times and the directory's path are no part of it: a copy has the
    same. A change that keeps all sizes and leaves those blocks alone is not seen; training changes every block. An
    adapter's has that of its base in it.
    """
    files = sorted({file for pattern in _WEIGHTS for file in folder.glob(pattern)})
    if not files:
        return None
    state = hashlib.sha256()
    for file in files:
        state.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        for block in _sample(file):
            state.update(block)
    if base := _base_of(folder):
        state.update(weights_of(base).encode())
    return f"sha256:{state.hexdigest()[:32]}"


def _sample(file: Path) -> Iterator[bytes]:
    """The header of a safetensors file (its first 8 bytes are the header's length), then the blocks."""
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        yield content.read(min(length, _HEADER_LIMIT))
        last = max(0, size - BLOCK)
        for start in sorted({last * number // (BLOCKS - 1) for number in range(BLOCKS)}):
            content.seek(start)
            yield content.read(BLOCK)


def _base_of(folder: Path) -> str | None:
    """The base model that an adapter names."""
    config = folder / "adapter_config.json"
    base = read_json(config).get("base_model_name_or_path") if config.exists() else None
    return base if isinstance(base, str) and base != str(folder) else None


def _commit(name: str) -> str | None:
    """The commit of a hub model in the cache: that of its tokenizer or config, which are loaded before its weights."""
    for file in ("tokenizer_config.json", "config.json"):
        try:
            path = try_to_load_from_cache(name, file)
        except ValueError:  # no name that the hub could have
            return None
        if isinstance(path, str):
            return f"commit:{Path(path).parent.name}"
    return None
