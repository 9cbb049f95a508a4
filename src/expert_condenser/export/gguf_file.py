"""GGUF files, through the package `gguf`: written and read tensor by tensor."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expert_condenser.errors import ExportError
from expert_condenser.export.gguf_layouts import Value

_FILE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}
"""GGUF's `general.file_type` by the dtype of the weights."""


def library() -> Any:
    """The package `gguf`, which is not among what a training needs."""
    try:
        import gguf
    except ImportError as error:
        raise ExportError("GGUF files need the package gguf: pip install 'expert-condenser[gguf]'") from error
    return gguf


def write_gguf(
    path: Path,
    architecture: str,
    numbers: Mapping[str, Value],
    tokenizer: Mapping[str, Any],
    tensors: Callable[[], Iterable[tuple[str, Tensor]]],
) -> None:
    """Write a file. `tensors` is gone through twice: for what stands in front of the data, and for the data."""
    writer = library().GGUFWriter(path, architecture)
    for name, value in numbers.items():
        _add(writer, f"{architecture}.{name}", value)
    for name, value in tokenizer.items():
        _add(writer, f"tokenizer.{name}", value)
    widest = torch.float32
    for name, tensor in tensors():
        stored = _stored_dtype(name, tensor)
        widest = stored if stored != torch.float32 else widest
        _add_info(writer, name, tensor, stored)
    writer.add_file_type(_FILE_TYPES[widest])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors():
        writer.write_tensor_data(_bytes(tensor.to(_stored_dtype(name, tensor))))
    writer.close()


class GgufFile:
    """A file that is read: its single values at once, a tensor when it is asked for."""

    def __init__(self, path: Path) -> None:
        reader = library().GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        self.numbers: dict[str, Any] = {name: value for name, value in fields.items() if not isinstance(value, list)}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def tensor(self, name: str) -> Tensor:
        """A copy of a tensor, its sides in torch's order; raises `KeyError` where there is none of that name."""
        stored = self._tensors[name]
        shape = [int(side) for side in reversed(stored.shape)]
        raw = torch.from_numpy(np.array(stored.data))  # the file's own memory cannot be written to, as torch wants it
        return (raw.view(torch.bfloat16) if stored.tensor_type.name == "BF16" else raw).view(shape)


def _add(writer: Any, name: str, value: Any) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders.get(type(value), writer.add_array)(name, value)


def _stored_dtype(name: str, tensor: Tensor) -> torch.dtype:
    """float32 for vectors and routers, as llama.cpp has them in every file, and as they are for all others."""
    return torch.float32 if tensor.dim() == 1 or ".ffn_gate_inp." in name else tensor.dtype


def _add_info(writer: Any, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    kinds = library().GGMLQuantizationType
    size = tensor.numel() * dtype.itemsize
    if dtype == torch.bfloat16:  # numpy has none: bytes, whose shape the writer takes for theirs
        shape = [*tensor.shape[:-1], 2 * tensor.shape[-1]]
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), size, raw_dtype=kinds.BF16)
    else:
        kind = np.dtype(np.float16 if dtype == torch.float16 else np.float32)
        writer.add_tensor_info(name, list(tensor.shape), kind, size)


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous()
    return (flat.view(torch.uint8) if flat.dtype == torch.bfloat16 else flat).numpy()
