"""What is drawn: a bar for every expert, condensers marked, in any width; and the page, which loads nothing."""

import io
import json
import re

import pytest
import torch
from rich.console import Console

from expert_condenser.watch.heat_map import bias_levels, even_shares, pooled, rows_of, usage_levels
from expert_condenser.watch.look import Watcher
from expert_condenser.watch.page import GENERATOR, page
from expert_condenser.watch.run_files import CONDENSERS
from expert_condenser.watch.terminal import RunView, spark
from tests.watch.folders import BIAS, COUNTS, make_run, own


def printed(look, width=80, show="usage"):
    file = io.StringIO()
    Console(width=width, file=file).print(RunView(look, show))
    return file.getvalue()


@pytest.fixture
def look(tmp_path):
    make_run(tmp_path)
    (tmp_path / CONDENSERS).write_text(json.dumps({"layers": [{"layer": 0, "condensers": [1]}]}))
    return Watcher(own(tmp_path)).look()


def test_shares_are_against_an_even_one():
    assert even_shares(COUNTS).tolist()[0] == [2.0, 1.0, 0.0, 1.0]
    assert usage_levels(even_shares(COUNTS))[0] == [6, 4, -1, 4]
    assert usage_levels(even_shares(3 * COUNTS)) == usage_levels(even_shares(COUNTS))
    assert even_shares(torch.zeros(1, 4)).tolist() == [[0.0] * 4]


def test_the_bias_goes_from_minus_to_plus_the_largest():
    assert bias_levels(BIAS)[0] == [0, 4, 6, 6]
    assert bias_levels(BIAS)[1][2] == 7
    assert bias_levels(torch.zeros(1, 2)) == [[4, 4]]


def test_a_table_that_is_too_wide_is_pooled_and_keeps_its_marks():
    table, down, across = pooled(torch.arange(12.0).reshape(3, 4), 2, 2)
    assert (down, across, table.tolist()) == (2, 2, [[2.5, 4.5], [8.5, 10.5]])
    rows = rows_of([[0, 0], [0, 0]], {1: [3], 2: [0]}, down, across)
    assert [(row.label, list(row.marked)) for row in rows] == [("0-1", [False, True]), ("2-3", [True, False])]
    assert pooled(torch.ones(3, 4), 100, 100)[1:] == (1, 1)


def test_the_terminal_shows_bars_a_star_and_the_curves(look):
    text = printed(look, 120)
    assert "  0 ▇ ▅*· ▅ " in text
    assert "  1 ▃ ▃ ▆ ▆ " in text
    assert "> 4 even shares  * condenser\n" in text
    assert "condenser | train | step 20 of 40" in text
    assert re.search(r"nll +0\.2 +█▁", text)
    assert "bias range" not in text, "it was not logged"
    assert "  0 ▁ ▅*▇ ▇ " in printed(look, show="bias").replace("▆", "▇")


def test_without_colours_condensers_are_named_also_where_a_star_has_no_room(look):
    shown = io.StringIO()
    for width, terminal in ((9, False), (9, True)):
        Console(file=shown, width=width, force_terminal=terminal, color_system=None).print(RunView(look))
    lines = " ".join(shown.getvalue().split())
    assert "*" not in lines.replace("* condenser", "")
    assert lines.count("by layer 0: 1") == 1


def test_where_only_ascii_can_be_shown_bars_are_letters(look):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    Console(width=120, file=file).print(RunView(look))
    assert "  0 * = * = " not in file.buffer.getvalue().decode()
    assert "  0 * =*  = " in file.buffer.getvalue().decode()


@pytest.mark.parametrize("width", [20, 40, 200])
def test_nothing_is_wider_than_the_terminal(look, width):
    assert max(map(len, printed(look, width).splitlines())) <= width


def test_a_method_without_bias_says_so(tmp_path):
    text = printed(Watcher(make_run(tmp_path, bias=None)).look(), show="bias")
    assert "this method has no bias" in text
    assert "  0 ▇ ▅ · ▅" in text


def test_a_long_curve_is_averaged_and_an_even_one_is_flat():
    assert spark([0.0, 0.0, 7.0, 7.0], 2) == "▁█"
    assert spark([0.0, 0.0, 7.0, 7.0], 4) == "▁▁██"
    assert spark([3.0, 3.0], 9) == "▁▁"
    assert spark([float("nan"), 1.0, float("inf")], 9) == "▁"
    assert spark([float("nan")], 9) == ""


def test_the_page_has_every_expert_and_loads_nothing(look):
    text = page(look, 5.0)
    assert GENERATOR in text
    assert text.count("<td") == COUNTS.numel()
    assert (
        'class="condenser" style="--s:50%" title="layer 0, expert 1: 1.00 of an even share, bias +0.0000, condenser"'
        in text
    )
    assert "step 20 of 40" in text
    assert "location.reload" in text
    assert "5000" in text
    addresses = set(re.findall(r"""(?:src|href)\s*=\s*["']([^"'#][^"']*)""", text))
    assert addresses == set()
    assert not re.search(r"url\((?!#)", text)
    assert "location.reload" not in page(look, None), "a run that is over is read once"


def test_the_page_escapes_what_a_folder_is_called(tmp_path):
    text = page(Watcher(make_run(tmp_path / "<b>&")).look(), None)
    assert "&lt;b&gt;&amp;" in text
    assert "<b>" not in text
