"""Small files in the formats of the published data sets: sentences and numbers made for these tests.

`eval_sample` and `train` have the names of the files in `../shared/data`, so that a test over these samples runs over
those as well, where they are: it is parametrised by what is in `ROOTS`.
"""

from pathlib import Path

SAMPLES = Path(__file__).parent
ROOTS = {"samples": SAMPLES}
if (_shared := Path(__file__).parents[4] / "shared" / "data").exists():
    ROOTS["widened"] = _shared
