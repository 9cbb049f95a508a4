"""The config of our own model types: what is saved of it is refused by the stock family's class."""

import copy
import json
from pathlib import Path
from typing import Any, ClassVar

GUARDED_FIELDS = ("hidden_size", "d_model")
"""The width of a text model, by the names that families save it under."""
NOTICE = "(the routing of this model needs: pip install expert-condenser)"


class CondenserConfig:  # in front of a PreTrainedConfig
    """Mixed into a family's config class: `config.json` refuses to be read as the stock family's.

    The stock class would load the weights and route without bias and condensers. The width of its text
    model is an integer; saved here it is a text that says what to install, so the stock class fails on it.
    """

    base_class: ClassVar[Any]

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers, with the notice."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        path = Path(save_directory) / "config.json"
        content = json.loads(path.read_text())
        section = content.get("text_config", content)
        field = next(name for name in GUARDED_FIELDS if name in section)
        section[field] = f"{section[field]} {NOTICE}"
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; a directory of the family's own type gives the family's config (PEFT asks for it)."""
        found = cls.get_config_dict(path)[0].get("model_type")  # type: ignore[attr-defined]
        if found == cls.base_class.model_type:
            return cls.base_class.from_pretrained(path, *args, **kwargs)
        return super().from_pretrained(path, *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, with the notice taken away."""
        config_dict = copy.deepcopy(config_dict)
        section = config_dict.get("text_config", config_dict)
        for field in GUARDED_FIELDS:
            if isinstance(guarded := section.get(field), str):
                section[field] = int(guarded.removesuffix(NOTICE))
        return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]
