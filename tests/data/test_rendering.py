"""What is trained follows what is asked, for every template that TRL ships and for those that are difficult."""

import datetime
from pathlib import Path

import pytest
import trl

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.data.conversation import Conversation
from expert_condenser.data.rendering import Renderer
from expert_condenser.data.stops import StopCheck
from expert_condenser.data.templates import dated, reads_clock, with_defaults
from expert_condenser.data.tokens import IGNORED, encode
from expert_condenser.errors import DataError

TEMPLATES = {
    path.stem: path.read_text() for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
}
VISION = ("idefics3", "llava_next", "smolvlm")
"""Templates of models that see: they take contents in parts, and render a text as nothing."""

USER, SYSTEM = {"role": "user", "content": "Q1?"}, {"role": "system", "content": "Be brief."}
SECOND = {"role": "user", "content": "Q2?"}


TURNS_OPENING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
)


def says(text, **keys):
    return {"role": "assistant", "content": text, **keys}


def conversation(*turns, **options):
    return Conversation(turns, tuple(turn["role"] == "assistant" for turn in turns), **options)


KINDS = {
    "plain": conversation(USER, says("A1.")),
    "written thoughts": conversation(USER, says("<think>T1</think>A1.")),
    "thoughts": conversation(USER, says("A1.", reasoning_content="T1")),
    "two turns": conversation(USER, says("A1."), SECOND, says("A2.")),
    "two turns with thoughts": conversation(
        USER, says("A1.", reasoning_content="T1"), SECOND, says("A2.", reasoning_content="T2")
    ),
    "system": conversation(SYSTEM, USER, says("A1.")),
}


def tokenizer_with(template):
    tokenizer = load_tokenizer(base_model_path())
    tokenizer.add_special_tokens({"bos_token": "<BOS>", "unk_token": "<UNK>"})
    tokenizer.chat_template = template
    return tokenizer


def trained(row, template, **options):
    """The texts of a row's answers, each with the context that it was trained behind; or the reason why not."""
    tokenizer = tokenizer_with(template)
    found = []
    for tokens in encode(Renderer(tokenizer, **options).passages(row), tokenizer):
        assert not isinstance(tokens, DataError)
        for each in tokens:
            assert [label for label in each.labels if label != IGNORED] == [
                token for start, end in each.answers for token in each.ids[start:end]
            ]
            found += [(each.ids[:start], tokenizer.decode(each.ids[start:end])) for start, end in each.answers]
    return found


OPENED = ("deepseekv3", "deepseek_r1_distill")
"""They open thoughts, and write an answer without any as if they did not: what is asked never has it so."""
CLOSED = ("qwen3_5_nothink",)
"""They close the thoughts in what is asked."""
NO_KEY = (
    *("cohere", "cohere2", "gemma", "gemma3", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "lfm2", "lfm2_v2"),
    *("llama3", "llama3_1", "llama3_2", "phi3", "phi3_5", "qwen2_5", "qwen2_5_vl", "qwen3_instruct_2507", "qwen3_vl"),
)
"""They do not read `reasoning_content`."""
CANNOT = {
    "plain": OPENED,
    "written thoughts": CLOSED,
    "thoughts": (*CLOSED, *NO_KEY),
    "two turns": OPENED,
    "two turns with thoughts": (*CLOSED, *NO_KEY),
    "system": (*OPENED, "gemma"),
}
"""The templates that cannot show a row of a kind; each trains all of the others."""


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not name.startswith(VISION)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_stands_behind_what_evaluation_asks_to_the_token(name, kind):
    row, tokenizer = KINDS[kind], tokenizer_with(TEMPLATES[name])
    renderer = Renderer(tokenizer)
    if name.removesuffix("_training") in CANNOT[kind]:
        with pytest.raises(DataError):
            trained(row, TEMPLATES[name])
        return
    found = trained(row, TEMPLATES[name])
    targets = [at for at, each in enumerate(row.trained) if each]
    assert len(found) == len(targets)
    for at, (context, answer) in zip(targets, found, strict=True):
        asked = renderer.text(row.turns[:at], opening=True)
        assert context == tokenizer(asked, add_special_tokens=False)["input_ids"]
        turn = row.turns[at]
        assert turn["content"].split("</think>")[-1] in answer
        assert turn.get("reasoning_content", "") in answer
        assert ("T1" in answer) == ("T1" in str(turn))


REFUSED = {
    **{(name, "plain"): "opens thoughts .* this row has none" for name in ("deepseekv3", "deepseek_r1_distill")},
    ("qwen3_5_nothink", "thoughts"): "closes the thoughts before they begin, and this row has thoughts",
    ("llama3", "thoughts"): "drops 'T1', which would not be trained; write it into 'content'",
    ("smolvlm", "plain"): "renders nothing for a turn of 'user'",
}


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_a_row_that_a_template_cannot_show(name, kind):
    with pytest.raises(DataError, match=REFUSED[name, kind]):
        trained(KINDS[kind], TEMPLATES[name])


TRAINED = {
    ("gptoss", "written thoughts"): ["<|channel|>analysis<|message|>T1<|end|><|start|>assistant<|channel|>final"],
    ("qwen3", "written thoughts"): ["<think>\nT1\n</think>\n\nA1."],
    ("deepseekv3", "written thoughts"): ["T1</think>A1."],
    ("deepseekv3", "two turns with thoughts"): ["T1\n</think>\n\nA1.", "T2\n</think>\n\nA2."],
    ("qwen3_5_think", "plain"): ["\n</think>\n\nA1."],
    ("qwen3_5_think", "thoughts"): ["T1\n</think>\n\nA1."],
    ("nemotron_3_nano", "plain"): ["</think>A1."],
    ("nemotron_3_nano", "written thoughts"): ["T1\n</think>\nA1."],
    ("qwen3_8", "written thoughts"): ["T1\n</think>\n\nA1."],
    ("glm4moe", "two turns"): ["\n<think></think>\nA1.", "\n<think></think>\nA2."],
    ("gptoss", "thoughts"): ["<|channel|>analysis<|message|>T1<|end|><|start|>assistant<|channel|>final<|message|>A1."],
}


@pytest.mark.parametrize(("name", "kind"), TRAINED)
def test_what_is_trained_under_templates_that_think(name, kind):
    found = [answer for _, answer in trained(KINDS[kind], TEMPLATES[name])]
    assert all(answer.startswith(wanted) for answer, wanted in zip(found, TRAINED[name, kind], strict=True))


LINES = conversation(USER, says("<think>\nT1\n</think>\n\nA1."))


@pytest.mark.parametrize("name", ["deepseekv3", "deepseek_r1_distill"])
def test_white_space_around_written_thoughts_is_that_of_the_row(name):
    ((_, answer),) = trained(LINES, TEMPLATES[name])
    assert answer.startswith("T1\n</think>\n\nA1.")


def test_thoughts_that_stand_in_the_answer_too_are_not_taken_for_shown():
    row = conversation(USER, says("6*4=24 pens.", reasoning_content="6*4=24"))
    with pytest.raises(DataError, match="drops '6\\*4=24'"):
        trained(row, TEMPLATES["llama3"])
    ((_, answer),) = trained(row, TEMPLATES["qwen3"])
    assert answer.startswith("<think>\n6*4=24\n</think>\n\n6*4=24 pens.")


CALL = says("", tool_calls=[{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}])
SCHEMA = {"type": "object", "properties": {}}
ADD = ({"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}},)
CALLED = conversation(USER, CALL, {"role": "tool", "content": "R1", "name": "add"}, says("A1."), tools=ADD)


def test_an_earlier_call_must_be_shown_whether_it_is_trained_or_not():
    for loss_on in ("all", "last"):
        with pytest.raises(DataError, match=r"drops 'add', which would not be trained|renders nothing for tool call 1"):
            trained(CALLED, TEMPLATES["lfm2"], loss_on=loss_on)
        assert trained(CALLED, TEMPLATES["qwen3"], loss_on=loss_on)[-1][1].endswith("A1.<|im_end|>\n")


def test_a_template_may_cut_earlier_thoughts_once_there_is_an_answer():
    row = conversation(USER, CALL | {"reasoning_content": "T1"}, CALLED.turns[2], says("A1."), tools=ADD)
    (_, first), (context, second) = trained(row, TEMPLATES["gptoss"])
    assert "analysis<|message|>T1<|end|>" in first
    assert second == "<|channel|>final<|message|>A1.<|return|>"
    asked = Renderer(tokenizer_with(TEMPLATES["gptoss"])).text(row.turns[:3], row.tools, opening=True)
    assert "T1" in asked
    assert context == tokenizer_with(TEMPLATES["gptoss"])(asked, add_special_tokens=False)["input_ids"]


EMPTY = TURNS_OPENING + "<think>\n\n</think>\n\n{% endif %}"


def test_empty_thoughts_that_only_the_question_has_end_the_context():
    ((context, answer),) = trained(KINDS["plain"], EMPTY)
    assert tokenizer_with(EMPTY).decode(context).endswith("<|assistant|><think>\n\n</think>\n\n")
    assert answer == "A1.<|end|>"
    for kind in ("thoughts", "written thoughts"):
        with pytest.raises(DataError, match="closes the thoughts before they begin"):
            trained(KINDS[kind], EMPTY)


def test_written_thoughts_do_not_stand_behind_empty_ones_of_the_template():
    template = TURNS_OPENING + "{% endif %}"
    template = template.replace(
        "{{ m.content }}", "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
    )
    with pytest.raises(DataError, match=r"must be a prefix|drops"):
        trained(KINDS["written thoughts"], template)
    ((_, answer),) = trained(KINDS["plain"], template)
    assert answer == "<think></think>A1.<|end|>"


@pytest.mark.parametrize("key", ["reasoning", "thinking"])
def test_a_template_may_read_thoughts_under_another_key(key):
    template = (
        TURNS_OPENING.replace("{{ m.content }}", f"{{{{ m.get('{key}') or '' }}}}|{{{{ m.content }}}}") + "{% endif %}"
    )
    for kind in ("thoughts", "written thoughts"):
        ((_, answer),) = trained(KINDS[kind], template)
        assert answer == "T1|A1.<|end|>"


def test_a_name_must_be_shown():
    row = conversation({**USER, "name": "Ann"}, says("A1."))
    with pytest.raises(DataError, match=r"drops 'Ann' .the name in a turn of 'user'"):
        trained(row, TURNS)
    assert trained(row, TURNS.replace("{{ m.role }}", "{{ m.role }}{{ ' ' + m.name if m.name else '' }}"))


TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize(
    ("loss_on", "expected"), [("all", ["A1.<|end|>", "A2.<|end|>"]), ("last", ["A2.<|end|>"]), ("everything", None)]
)
def test_the_loss_is_on_all_answers_or_on_the_last(loss_on, expected):
    row = KINDS["two turns"]
    found = [answer for _, answer in trained(row, TURNS, loss_on=loss_on)]
    assert found == (expected or ["A1.<|end|>", "A2.<|end|>"])
    passages = Renderer(tokenizer_with(TURNS), loss_on=loss_on).passages(row)
    assert len(passages) == 1, "a template that rewrites nothing makes one sequence of a conversation"


def test_a_turn_of_weight_0_is_shown_and_not_trained():
    row = Conversation(KINDS["two turns"].turns, (False, False, False, True))
    ((context, answer),) = trained(row, TURNS)
    assert answer == "A2.<|end|>"
    assert "A1." in tokenizer_with(TURNS).decode(context)


def test_generation_marks_narrow_what_is_trained():
    marked = (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ m.content }}<|end|>{{ '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = tokenizer_with(marked)
    row, renderer = KINDS["two turns"], Renderer(tokenizer)
    (passage,) = renderer.passages(row)
    ((tokens,),) = encode([passage], tokenizer)
    narrowed = tokens.narrowed(*renderer.marked(row, passage))
    assert [tokenizer.decode(tokens.ids[a:b]) for a, b in tokens.answers] == ["A1.<|end|>\n", "A2.<|end|>\n"]
    assert [tokenizer.decode(tokens.ids[a:b]) for a, b in narrowed.answers] == ["A1.<|end|>", "A2.<|end|>"]
    assert tokens.narrowed([0], [1]) == tokens, "marks of other ids say nothing"


def test_a_token_over_the_boundary_is_taken_apart():
    opens = TURNS.replace("<|assistant|>{% endif %}", "<|assistant|>{{ '\n' }}{% endif %}").replace(
        "<|{{ m.role }}|>", "<|{{ m.role }}|>{% if m.role == 'assistant' %}{{ '\n' }}{% endif %}"
    )
    tokenizer = tokenizer_with(opens)
    tokenizer.add_tokens(["\n\n"])
    row, renderer = conversation(USER, says("\nA1.")), Renderer(tokenizer)
    asked = tokenizer(renderer.text([USER], opening=True), add_special_tokens=False)["input_ids"]
    whole = tokenizer(renderer.text(row.turns), add_special_tokens=False)["input_ids"]
    assert whole[: len(asked)] != asked, "together, the two line breaks are one token"
    ((tokens,),) = encode(renderer.passages(row), tokenizer)
    ((start, end),) = tokens.answers
    assert tokens.ids[:start] == asked
    assert tokenizer.decode(tokens.ids[start:end]) == "\nA1.<|end|>"
    assert tokenizer.decode(tokens.ids) == tokenizer.decode(whole)


def test_a_turn_that_is_not_rendered_is_refused_whatever_it_says():
    hides = TURNS.replace("{% for m in messages %}", "{% for m in messages if m.role != 'developer' %}")
    row = conversation({"role": "developer", "content": "Q1?"}, USER, says("A1."))
    assert trained(row, TURNS)
    with pytest.raises(DataError, match="renders nothing for a turn of 'developer'"):
        trained(row, hides)


def test_tools_are_shown_or_the_row_is_refused():
    tool = {"type": "function", "function": {"name": "add", "description": "d", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": "xy"}}}
    result = {"role": "tool", "content": "6", "name": "add"}
    row = conversation(USER, says("", tool_calls=[call]), result, says("A6."), tools=(tool,))
    first, second = (answer for _, answer in trained(row, TEMPLATES["qwen3"]))
    assert '"name": "add", "arguments": {"a": "xy"}' in first
    assert "A6." in second
    with pytest.raises(DataError, match=r"drops 'add' \(the tool\)"):
        trained(row, TURNS)


def test_the_date_can_be_held():
    shown = (
        "{{ strftime_now ( '%Y') }} {% if strftime_now is defined %}{{ strftime_now(\"%d %b\") }}{% endif %} " + TURNS
    )
    day = datetime.date(2031, 2, 3)
    text = Renderer(tokenizer_with(shown), day).text([USER])
    assert text.startswith("2031 03 Feb <|user|>")
    assert Renderer(tokenizer_with(shown)).text([USER]).startswith(f"{datetime.date.today().year} ")
    with pytest.raises(DataError, match="reads the clock with a format that is computed"):
        dated("{{ strftime_now(form) }}", day)
    with pytest.raises(DataError, match="reads the clock"):
        dated("{% set now = strftime_now %}{{ now('%Y') }}", day)
    assert not reads_clock("{% if strftime_now is not defined %}{% endif %}")


def test_a_template_takes_what_it_is_told_as_its_default():
    thinks = "{% if add_generation_prompt %}{{ 'yes' if enable_thinking else 'no' }}{% endif %}"
    tokenizer = tokenizer_with(with_defaults(thinks, {"enable_thinking": True}))
    assert Renderer(tokenizer).text([USER], opening=True) == "yes"
    assert Renderer(tokenizer).text([USER], options={"enable_thinking": False}, opening=True) == "no"
    assert Renderer(tokenizer_with(thinks)).text([USER], opening=True) == "no"
    with pytest.raises(DataError, match="'enable_thinkin' is not in it"):
        with_defaults(thinks, {"enable_thinkin": True})


def test_options_of_a_row_must_have_an_effect():
    row = conversation(USER, says("A1."), options={"enable_thinking": False})
    assert trained(row, TEMPLATES["qwen3_5_think"])[0][1].startswith("A1.")
    with pytest.raises(DataError, match="'enable_thinking' is not in it"):
        trained(row, TURNS)


def stop_check(template, **options):
    tokenizer = tokenizer_with(template)
    (passage,) = Renderer(tokenizer, **options).passages(KINDS["plain"])
    ((tokens,),) = encode([passage], tokenizer)
    return StopCheck(tokenizer, [tokenizer.eos_token_id]), tokens


def test_an_answer_must_end_where_generation_stops():
    check, tokens = stop_check(TURNS)
    check.check(tokens)
    check, tokens = stop_check(TURNS + "\n")
    check.check(tokens)
    check, tokens = stop_check(TURNS.replace("<|end|>{% endfor %}", "{% endfor %}"))
    with pytest.raises(DataError, match=r"must end in one of .* '<\|end\|>' .*leaves the turn open: set end_of_turn"):
        check.check(tokens)
    other = TURNS.replace("<|end|>{% endfor %}", "<|user|>{% endfor %}")
    check, tokens = stop_check(other)
    with pytest.raises(DataError, match=r"it ends in '<\|user\|>' .*; set eos_token: '<\|user\|>'"):
        check.check(tokens)


def test_a_turn_that_the_template_leaves_open_can_be_ended():
    opens = TURNS.replace("<|end|>{% endfor %}", "{% endfor %}")
    check, tokens = stop_check(opens, end_of_turn="<|end|>")
    check.check(tokens)
    row = KINDS["two turns"]
    glm = [answer for _, answer in trained(row, TEMPLATES["glm4moe"], end_of_turn="<|user|>")]
    assert glm == ["\n<think></think>\nA1.<|user|>", "\n<think></think>\nA2.<|user|>"]
