"""What the files of a saved model hold, by their headers: names, sizes and types, and no values."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open


class SavedTensor(NamedTuple):
    """A tensor in a file."""

    name: str
    numel: int
    dtype: str
    """As safetensors writes it (`F32`), or torch (`torch.float32`)."""


def saved_tensors(folder: Path) -> Iterator[SavedTensor]:
    """The tensors of a directory's safetensors files, and of `pytorch_model*.bin` where a model is loaded from these.

    Of a model on the hub there are none.
    """
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - it is no dict
                header = tensors.get_slice(key)
                yield SavedTensor(key, torch.Size(header.get_shape()).numel(), header.get_dtype())
    preferred = any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json"))
    for file in [] if preferred else sorted(folder.glob("pytorch_model*.bin")):
        for key, tensor in torch.load(file, map_location="meta", weights_only=True).items():
            yield SavedTensor(key, tensor.numel(), str(tensor.dtype))
