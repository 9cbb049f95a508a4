"""What of a saved model goes to the hub, and its way there.

Nothing goes that is not on the list of a model's files, and no path of this machine.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from expert_condenser.checkpoint.card import CARD, PROVENANCE, is_own
from expert_condenser.checkpoint.guard import check_readable
from expert_condenser.checkpoint.local_names import is_hub_name, shown
from expert_condenser.errors import CheckpointError, DataError, ExportError
from expert_condenser.files import read_object

CHECKSUMS = "checksums.json"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SENT = re.compile(
    r"(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors|(model|adapter_model)\.safetensors\.index\.json"
    r"|[\w.-]+\.gguf|config\.json|adapter_config\.json|generation_config\.json|provenance\.json|expert_condenser_model\.py"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt"
    r"|vocab\.txt|tokenizer\.model|spiece\.model|chat_template\.(jinja|json)|(pre)?processor_config\.json|README\.md"
    r"|LICENSE(\.(txt|md))?|NOTICE(\.(txt|md))?"
)
"""The files of a model. Everything else stays here: states of a training, logs, data."""
_REWRITTEN = (PROVENANCE, "config.json", "adapter_config.json", "generation_config.json", "tokenizer_config.json")
"""Files that may name folders of this machine."""
_TOKENS = re.compile(r"\w+_tokens?|added_tokens_decoder|chat_template|model_specific_special_tokens")
"""What of a tokenizer's config is text that a model reads: `/think` is a token there, and no folder."""


@dataclass(frozen=True)
class Sent:
    """One file as it is sent: a path here, or content that was made of it."""

    name: str
    source: Path | bytes
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, source: Path | bytes) -> "Sent":
        """With its size and digest."""
        if isinstance(source, bytes):
            return cls(name, source, len(source), hashlib.sha256(source).hexdigest())
        with source.open("rb") as file:
            return cls(name, source, source.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Upload:
    """What goes where, and what stays."""

    repo_id: str
    sent: list[Sent]
    left: list[str]


def plan_upload(folder: Path, repo_id: str) -> Upload:
    """What `push` would send; raises `ExportError` where that would be no model, or would tell of this machine."""
    if not _REPOSITORY.fullmatch(repo_id):
        raise ExportError(f"--repo_id is OWNER/NAME, as on the hub; got {repo_id!r}")
    if not folder.is_dir():
        raise ExportError(f"a saved model is pushed, such as RUN/model; {folder} is no directory")
    check_readable(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    chosen = [name for name in names if _SENT.fullmatch(name)]
    if not any(name.endswith((".safetensors", ".gguf")) for name in chosen) or PROVENANCE not in chosen:
        raise ExportError(
            f"a model that this program saved is pushed, with weights and {PROVENANCE}; {folder} is none. Of a run, "
            "name RUN/model or RUN/adapter"
        )
    sent = [Sent.of(name, _content(folder, name)) for name in chosen]
    sums = {each.name: {"size": each.size, "sha256": each.sha256} for each in sent if each.name != CARD}
    sent.append(Sent.of(CHECKSUMS, (json.dumps(sums, indent=2) + "\n").encode()))
    left = [path.name for path in sorted(folder.iterdir()) if path.name not in chosen]
    return Upload(repo_id, sent, left)


def _content(folder: Path, name: str) -> Path | bytes:
    path = folder / name
    if name in _REWRITTEN:
        try:
            content = read_object(path)
        except DataError as error:
            raise CheckpointError(str(error)) from error
        _check_base(path, content)
        own = {key: part if _TOKENS.fullmatch(key) else shown(part) for key, part in content.items()}
        return (json.dumps(own, indent=2, sort_keys=True) + "\n").encode()
    if name == CARD:
        text = path.read_text(encoding="utf-8", errors="replace")
        here = (Path.cwd(), folder.resolve().parent)
        for private in (Path.home(), *(path for path in here if len(path.parts) > 2)):  # `/tmp` tells nothing
            if f"{private}" in text:
                raise ExportError(
                    f"what is pushed names no folder of this machine, and {path} names {private}: edit it"
                )
    return path


def _check_base(path: Path, content: dict[str, Any]) -> None:
    """An adapter is of no use to whoever cannot find its base."""
    base = content.get("base_model_name_or_path")
    if path.name == "adapter_config.json" and not is_hub_name(str(base), read_object(path.parent / PROVENANCE)):
        raise ExportError(
            f"the base of a pushed adapter is a model of the hub, and {path} names {base!r}; push the merged model "
            "(RUN/model), or name the base on the hub in that file"
        )


def push(upload: Upload, *, public: bool = False, overwrite: bool = False, api: Any = None) -> str:
    """Send it in one commit; returns the address. Raises `ExportError` where the hub does not take it.

    `api` is a client of huggingface_hub, by default its own.

    A card that is on the hub already, and not as it was written here, stays unless `overwrite` is set.
    """
    api = api or HfApi()
    _on_hub(lambda: api.create_repo(upload.repo_id, private=not public, exist_ok=True), upload)
    keeps = not overwrite and _on_hub(lambda: _has_other_card(api, upload.repo_id), upload)
    operations = [
        CommitOperationAdd(each.name, each.source if isinstance(each.source, bytes) else str(each.source))
        for each in upload.sent
        if not (keeps and each.name == CARD)
    ]
    message = "Upload a model saved by expert-condenser"
    commit = _on_hub(lambda: api.create_commit(upload.repo_id, operations, commit_message=message), upload)
    return str(getattr(commit, "commit_url", upload.repo_id))


def _has_other_card(api: Any, repo_id: str) -> bool:
    if not api.file_exists(repo_id, CARD):
        return False
    return not is_own(Path(api.hf_hub_download(repo_id, CARD)))


def _on_hub(call: Callable[[], Any], upload: Upload) -> Any:
    try:
        return call()
    # No token, no right, no network, no space there: each is an error of huggingface_hub or of its HTTP client.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or repr(error)
        raise ExportError(
            f"{upload.repo_id} was not pushed: {type(error).__name__}: {reason}. It takes a network, and a token that "
            "may write there (`hf auth login`, or HF_TOKEN); --dry_run shows what would be sent without either"
        ) from error
