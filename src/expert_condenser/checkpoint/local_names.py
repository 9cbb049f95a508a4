"""What of a model's papers is of this machine: paths, which nobody else should read, and names that were paths."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

LOCAL = "local"
"""Of a provenance: the names in it that look like the hub's, and were paths when the model was saved."""
_PATH = re.compile(r"/|~|\.{1,2}/|file:|[A-Za-z]:[\\/]|\\\\")
_RELATIVE = re.compile(r"[^\s/:]+(/[^\s/]+){2,}")
"""A path of three parts or more, which no name on the hub has."""
_WITHIN = re.compile(
    r"(?:(?<=[\s,;=:'\"(\[]))(?:file:/+|~?/(?!/)|[A-Za-z]:[\\/](?!/))[^\s,;'\")\]/\\]+[/\\][^\s,;'\")\]]*"
)
"""A path of two parts or more within a text: a mixture of data names several."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")
_USER = re.compile(r"(?<=://)[^/\s@]+@")
"""Who logs in at an address, with which password."""


def is_hub_name(name: str, provenance: Mapping[str, Any]) -> bool:
    """Whether a name is one of the hub, `owner/name`, and no path that is there, looks like one, or was."""
    local = provenance.get(LOCAL)
    was_path = isinstance(local, list) and name in local
    return bool(_HUB_NAME.fullmatch(name)) and not was_path and not Path(name).exists()


def with_local_names(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance that also says which of its names are paths: where it is read, in another folder, nobody knows."""
    known = provenance.get(LOCAL)
    found = {name for name in _texts(provenance) if _HUB_NAME.fullmatch(name) and Path(name).exists()}
    found |= set(_texts(known)) if isinstance(known, list) else set()
    return {**provenance, LOCAL: sorted(found)} if found else dict(provenance)


def _texts(value: Any) -> Iterator[str]:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        if isinstance(part, str):
            yield part
        yield from _texts(part)


def shown(value: Any) -> Any:
    """A value as others may see it: of a path of this machine, also one within a text, its last part."""
    if isinstance(value, Mapping):
        return {shown(key): shown(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [shown(part) for part in value]
    if not isinstance(value, str):
        return value
    value = _USER.sub("", value)
    is_path = _PATH.match(value) or _RELATIVE.fullmatch(value) or ("/" in value and _is_there(value))
    return _last_part(value) if is_path else _WITHIN.sub(lambda found: _last_part(found.group()), value)


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a text that is longer than a path can be
        return False


def _last_part(path: str) -> str:
    return PurePath(path.replace("\\", "/")).name
