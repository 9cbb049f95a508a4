"""Where data for tests lies: samples in the repository, and wider sets beside it, which a clean clone lacks."""

import json
from pathlib import Path

SAMPLES = Path(__file__).parent / "data" / "samples"
SHARED = Path(__file__).parents[2] / "shared" / "data"


def folders(samples: str, wider: str) -> list[Path]:
    """A folder of samples, and the wider set in the same format where that is at hand."""
    return [SAMPLES / samples, *([SHARED / wider] if (SHARED / wider).is_dir() else [])]


def stated_answers(names: dict[str, str], readings: Path) -> dict[str, tuple[str, str | None]]:
    """By id, an output of the sets `names` (key to file name) and the answer that a reader finds in it.

    A sample carries its reading as `states`. For the wider sets the readings lie apart, as rows of `set`, `index`,
    `states` and, where the output states nothing but the rules of extraction settle on something, that `guess`.
    """
    sample, *wider = folders("answers", "eval_sample")
    found = {}
    for key, name in names.items():
        for at, row in enumerate(json.loads((sample / f"{name}.json").read_text())):
            found[f"sample-{key}-{at}"] = row["output"], row["states"]
    for folder in wider:
        outputs = {key: json.loads((folder / f"{name}.json").read_text()) for key, name in names.items()}
        for row in json.loads(readings.read_text()):
            if (key := row["set"]) in names:
                output = outputs[key][row["index"]]["output"]
                found[f"{key}-{row['index']}"] = output, row["states"] or row.get("guess")
    return found
