"""What an analysis leaves: `NAME.json` with its numbers, `NAME.safetensors` with its tensors, pictures beside them."""

import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from expert_condenser.errors import AnalysisError
from expert_condenser.files import read_json, replacing, write_json
from expert_condenser.training.record import PACKAGES, package_commit

FORMAT_VERSION = 1


def write_analysis(
    folder: Path, name: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor], command: str
) -> Path:
    """Write both files, each whole or not at all; numbers that are not finite are null in JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    head = {
        "format_version": FORMAT_VERSION,
        "analysis": name,
        "command": command,
        "versions": {package: version(package) for package in PACKAGES},
        "git_commit": package_commit(),
    }
    if tensors:
        with replacing(folder / f"{name}.safetensors") as partial:
            stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(stored, partial, metadata={"format_version": str(FORMAT_VERSION)})
    path = folder / f"{name}.json"
    write_json(path, _plain({**head, **content}), indent=1)
    return path


def read_analysis(path: Path, name: str) -> dict[str, Any]:
    """The content of `NAME.json`; raises `AnalysisError` on another file, or one of a newer version."""
    content = read_json(path)
    found = content.get("analysis") if isinstance(content, dict) else None
    if found != name:
        raise AnalysisError(f"{path} must be what `condenser analyze {name}` wrote; it is of {found or 'no analysis'}")
    if content.get("format_version") != FORMAT_VERSION:
        raise AnalysisError(
            f"{path} has format_version {content.get('format_version')!r}, and this release reads {FORMAT_VERSION}; "
            "update expert-condenser"
        )
    return content


def _plain(value: Any) -> Any:
    """The same as JSON takes it; floats have six significant digits, which is more than any figure shows."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
