"""No key of a turn and no column of a row is dropped unseen."""

import json

import pytest

from expert_condenser.data.formats import FORMATS
from expert_condenser.data.readers import without_fill
from expert_condenser.data.reading import read_row
from expert_condenser.data.turns import is_empty, read_turn, with_json_arguments
from expert_condenser.errors import DataError

ASKED, ANSWERED = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CHAT = {"messages": [ASKED, ANSWERED]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def read(row, name="messages", **options):
    return read_row(row, FORMATS[name], "auto", **options)


def answer(**keys):
    return {"messages": [ASKED, ANSWERED | keys]}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_thoughts_are_used_under_each_of_their_names(key):
    assert read(answer(**{key: "so"})).completion == [ANSWERED | {"reasoning_content": "so"}]
    assert read(answer(**{key: ""})).completion == [ANSWERED]


@pytest.mark.parametrize("turn", [{"role": "user", "content": None}, {"role": "user", "content": ""}, {"role": "tool"}])
def test_a_turn_that_says_nothing_is_refused(turn):
    with pytest.raises(DataError, match="must have a text as 'content', or tool calls"):
        read({"messages": [ASKED, turn, ANSWERED]})


def test_turns_may_be_json():
    assert read({"messages": json.dumps(CHAT["messages"])}) == read(CHAT)
    with pytest.raises(DataError, match="must be a list of turns"):
        read({"messages": "[1"})


def test_a_null_argument_is_an_argument_in_json_and_none_in_a_table():
    call = {"function": {"name": "add", "arguments": {"a": 1, "b": None}}}
    row = {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}], "b": None}
    assert read(row).turns[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": None}
    filled = without_fill(row)
    assert filled["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert without_fill([{"a": [None, {"b": None}]}, None]) == [{"a": [None, {}]}, None]


@pytest.mark.parametrize("label", [False, 0, 0.0, "False", "false"])
def test_a_row_that_is_labelled_bad_is_refused(label):
    with pytest.raises(DataError, match="the row is not one to learn from"):
        read({**CHAT, "label": label})
    for good in (True, 1, "True", 3, "spam", None):
        assert read({**CHAT, "label": good}) == read(CHAT)


def test_half_of_a_pair_and_endless_numbers_are_refused_wherever_they_stand():
    for tools in ([{**TOOL, "description": "\ud83d"}], [{**TOOL, "x": 10**5000}]):
        with pytest.raises(DataError, match=r"must be Unicode text|cannot be written"):
            read({**CHAT, "tools": tools})


def test_thoughts_in_parts_are_joined():
    parts = [{"type": "reasoning.text", "text": "one, "}, {"type": "reasoning.summary", "summary": "two"}]
    assert read(answer(reasoning_details=parts)).completion[0]["reasoning_content"] == "one, two"
    assert read(answer(reasoning="one, two", reasoning_details=parts)).completion[0]["reasoning_content"] == "one, two"
    with pytest.raises(DataError, match="reasoning_details' must be a text, or a list of parts with a 'text' each"):
        read(answer(reasoning_details=[{"type": "reasoning.encrypted", "data": "x"}]))
    with pytest.raises(DataError, match="names of the same thoughts, but they differ"):
        read(answer(reasoning="one", thinking="two"))


def test_thoughts_in_a_column_belong_to_the_answer():
    row = {"prompt": "a", "completion": "b", "reasoning": "so"}
    assert read(row, "prompt_completion").completion == [ANSWERED | {"reasoning_content": "so"}]
    with pytest.raises(DataError, match="the last turn has thoughts, and reasoning has others"):
        read({"messages": [ASKED, ANSWERED | {"thought": "no"}], "reasoning": "so"})


@pytest.mark.parametrize("key", ["weight", "loss", "train"])
@pytest.mark.parametrize("value", [0, 0.0, False])
def test_a_turn_of_weight_0_is_not_trained(key, value):
    first = ANSWERED | {key: value}
    assert read({"messages": [ASKED, first, ASKED, ANSWERED]}).trained == (False, False, False, True)
    assert read({"messages": [ASKED, ANSWERED, ASKED, first]}).trained == (False, True, False, False)
    with pytest.raises(
        DataError, match="a row needs a turn of the assistant that is trained, but the weight of each is 0"
    ):
        read({"messages": [ASKED, first]})


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (ANSWERED | {"weight": 0.5}, "'weight' of a turn .* by 0 or 1, but it is 0.5"),
        (ANSWERED | {"weight": 1, "loss": False}, "weight and loss of a turn of 'messages' contradict each other"),
        (ASKED | {"train": True}, "the loss is on turns of the assistant, but 'train' is on one"),
        (ANSWERED | {"trainable": False}, "has trainable, which would be lost; .* list it under ignore"),
        (ANSWERED | {"function_call": {"name": "f"}}, "has function_call, which would be lost"),
        (ASKED | {"content": [{"type": "image", "url": "x"}]}, "must have a text as 'content'.*trained on text alone"),
        (ASKED | {"reasoning": "so"}, "only a turn of the assistant has thoughts or tool calls"),
        (ASKED | {"tool_calls": [{"function": {"name": "f"}}]}, "only a turn of the assistant has thoughts"),
        (ANSWERED | {"tool_calls": [{"function": {}}]}, "must have a function with a 'name'"),
        (ANSWERED | {"tool_calls": [{"name": "f", "arguments": "{"}]}, "arguments of a tool call must be JSON"),
        ({"role": "assistant"}, "must have a text as 'content', or tool calls"),
        ({"role": "assistant", "content": None}, "must have a text as 'content', or tool calls"),
        ("b", "must have a 'role' of"),
    ],
)
def test_a_turn_that_says_what_cannot_be_heeded(turn, message):
    with pytest.raises(DataError, match=message):
        read_turn(turn, "messages")


def test_keys_that_say_nothing_and_those_that_are_ignored():
    empty = ANSWERED | {"refusal": None, "images": [], "note": "", "tool_calls": None}
    assert read({"messages": [ASKED, empty]}).completion == [ANSWERED]
    noted = {"messages": [ASKED | {"id": 7}, ANSWERED | {"id": 8}]}
    assert read(noted, ignore=["id"]).turns == (ASKED, ANSWERED)
    with pytest.raises(DataError, match="has id, which would be lost"):
        read(noted)
    assert not any(map(is_empty, (0, False, 0.0, " ")))


def test_a_text_in_parts_is_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]
    assert read_turn({"role": "user", "content": parts}, "messages")[0]["content"] == "abc"


def test_tools_their_calls_and_their_results():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2]}'}}
    turns = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "1", "name": "add"},
        ANSWERED,
    ]
    row = read({"messages": turns, "tools": [TOOL]})
    assert row.tools == (TOOL,)
    assert row.trained == (False, True, False, True)
    assert row.turns[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": [2]}
    assert row.turns[2] == turns[2]
    as_json = with_json_arguments(row.turns)
    assert as_json[1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1, "b": [2]}'
    assert with_json_arguments(as_json) is None
    with pytest.raises(DataError, match="'tools' must be a list of JSON schemas with a 'name' each"):
        read({**CHAT, "tools": [{}]})


def test_system_and_history_come_first():
    history = [["q", "r"]]
    row = {"instruction": "a", "output": "b", "system": "Be brief.", "history": history}
    found = read(row, "alpaca")
    assert [(turn["role"], turn["content"]) for turn in found.turns] == [
        ("system", "Be brief."),
        ("user", "q"),
        ("assistant", "r"),
        ("user", "a"),
        ("assistant", "b"),
    ]
    assert found.trained == (False, False, True, False, True)
    assert read({**row, "system": None, "history": []}, "alpaca").turns == (ASKED, ANSWERED)
    with pytest.raises(DataError, match="a row has one system turn"):
        read({"messages": [{"role": "system", "content": "x"}, ASKED, ANSWERED], "system": "y"})


def test_options_of_the_template_stay_with_the_row():
    assert read({**CHAT, "chat_template_kwargs": {"enable_thinking": False}}).options == {"enable_thinking": False}
    assert read({**CHAT, "chat_template_kwargs": '{"a": 1}'}).options == {"a": 1}
    with pytest.raises(DataError, match="'chat_template_kwargs' must be a mapping"):
        read({**CHAT, "chat_template_kwargs": [1]})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"context": "Once upon a time"}, "'context' .* would be lost: write it into the question"),
        ({"images": ["x.png"]}, "'images' .* would be lost: the model is trained on text alone"),
        ({"rejected": "c"}, "'rejected' .* would be lost: it is for preference training"),
        ({"label": False}, "'label' is False: the row is not one to learn from"),
        ({"weight": 0}, "'weight' is 0: the row is not one to learn from"),
        ({"weight": 0.3}, "'weight' of a row says whether it is trained, by 0 or 1"),
    ],
)
def test_a_column_that_says_what_cannot_be_heeded(columns, message):
    with pytest.raises(DataError, match=message):
        read({**CHAT, **columns})
    name = next(iter(columns))
    assert read({**CHAT, **columns}, ignore=[name]).turns == (ASKED, ANSWERED)


@pytest.mark.parametrize("columns", [{"label": True}, {"label": 3}, {"label": "spam"}, {"context": ""}, {"id": 9}])
def test_columns_that_change_nothing(columns):
    assert read({**CHAT, **columns}).turns == (ASKED, ANSWERED)


def test_sharegpt_has_calls_of_functions():
    call = {"from": "function_call", "value": json.dumps({"name": "add", "arguments": {"a": 1}})}
    row = {"conversations": [{"from": "human", "value": "a"}, call, {"from": "observation", "value": "2"}]}
    row["conversations"].append({"from": "gpt", "value": "b"})
    turns = read(row, "sharegpt").turns
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "assistant"]
    assert turns[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    row["conversations"][1] = {"from": "function_call", "value": "add(1)"}
    with pytest.raises(DataError, match="must be the JSON of a call"):
        read(row, "sharegpt")


def test_sharegpt_names_its_roles_otherwise():
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    assert read(row, "sharegpt").turns == (ASKED, ANSWERED)
    with pytest.raises(DataError, match="must have a 'role' of"):
        read({"conversations": [{"from": "observer", "value": "a"}]}, "sharegpt")
