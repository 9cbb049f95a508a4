"""ESFT: who is chosen, against exact arithmetic and published choices; the file of its release; what trains."""

import hashlib
import json
from fractions import Fraction

import pytest
import torch
from datasets import Dataset

from expert_condenser import METHODS, MethodConfig, moe_layers
from expert_condenser.errors import TrainingError
from expert_condenser.methods.esft import ExpertConfig, expert_shares, select_experts
from expert_condenser.moe.layers import decoder_depth
from expert_condenser.moe.parameters import parameter_groups
from expert_condenser.moe.slices import SLICES, is_sliced
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training.calibrate import usage_on_rows
from tests.finetune import tokenizer
from tests.samples import folders

USAGE = {
    path.stem: path for folder in folders("router_usage", "router_usage") for path in sorted(folder.glob("*.json"))
}
CHOSEN = {"olmoe": {"0": [1, 5], "1": [0], "2": [7, 3, 2]}}
CHOSEN["qwen2_moe"] = CHOSEN["olmoe"]
CHOSEN["deepseek_v2"] = CHOSEN["deepseek_v2_grouped"] = {"1": [4, 0, 6], "2": [3]}
both = pytest.mark.parametrize("name", ["esft_token", "esft_gate"])


def score_experts(model, words, data, kind, *, rows, max_length=None):
    method = METHODS[f"esft_{kind}"](MethodConfig(score_rows=rows))
    examples = Dataset.from_dict({"input_ids": tokens_of(data)})
    method.calibrate(usage_on_rows(model, words, examples, method.calibration_rows, max_length))
    return method.scores


def select(*scores, top_p, dtype=torch.float64):
    return select_experts(torch.tensor(scores, dtype=dtype), top_p)


def smallest_prefix(masses, top_p):
    """Section 3.3 of the paper in exact arithmetic: by descending mass, ties by index, until the sum reaches top_p."""
    exact = [Fraction(mass) for mass in masses]
    order = sorted(range(len(exact)), key=lambda i: (-exact[i], i))
    taken, reached = [], Fraction(0)
    while reached < top_p * sum(exact):
        taken.append(order[len(taken)])
        reached += exact[taken[-1]]
    return taken


def method_for(model, name="esft_token", *, experts=None, **options):
    """A method with experts that were chosen for it."""
    method = METHODS[name](MethodConfig(**options))
    chosen = CHOSEN[model.config.model_type] if experts is None else experts
    switches = {key: options.get(key, False) for key in ("shared_experts", "non_expert_modules")}
    method.chosen = ExpertConfig(chosen, **switches)
    return method


def prepared(family="olmoe", **options):
    model = tiny_model(family)
    method_for(model, **options).prepare(model)
    return model


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


# The choice.


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.01, [2]),
        (0.4, [2]),
        (0.41, [2, 0]),
        (0.7, [2, 0]),
        (0.71, [2, 0, 4]),
        (0.9, [2, 0, 4]),
        (0.95, [2, 0, 4, 1]),
        (1.0, [2, 0, 4, 1]),
    ],
)
def test_experts_are_taken_until_the_sum_reaches_top_p(top_p, expected):
    """Shares 0.4, 0.3, 0.2, 0.1 and 0: a sum that hits top_p exactly is enough, a score of zero is never needed."""
    assert select([0.3, 0.1, 0.4, 0.0, 0.2], top_p=top_p) == [expected]


def test_ties_go_to_the_lower_index():
    assert select([0.25, 0.25, 0.25, 0.25], top_p=0.5) == [[0, 1]]
    assert select([0.1, 0.3, 0.3, 0.0, 0.3], top_p=0.6) == [[1, 2]]
    assert select([0.1, 0.3, 0.3, 0.0, 0.3], top_p=0.91) == [[1, 2, 4, 0]]
    many = [1 / 64] * 64
    assert select(many, top_p=0.2) == [list(range(13))], "64 equals, where an unstable sort would mix them"


@pytest.mark.parametrize("count", range(1, 11))
def test_rounding_adds_no_expert(count):
    """Ten shares of 0.1: in floating point three of them sum to 0.30000000000000004 and eight to 0.7999999999999999."""
    assert select([0.1] * 10, top_p=count / 10) == [list(range(count))]
    assert select([0.1] * 10, top_p=count / 10 - 1e-6) == [list(range(count))]
    assert select([0.1] * 10, top_p=count / 10 - 0.1 + 1e-6) == [list(range(count))], "and none is missing"


def test_layers_choose_for_themselves():
    """Each row shares one among its five experts; the sizes of the sets differ."""
    rows = [[1.0, 0, 0, 0, 0], [0.2] * 5, [0, 0.125, 0.5, 0.25, 0.125]]
    assert select(*rows, top_p=0.75) == [[0], [0, 1, 2, 3], [2, 3]]
    assert select(*rows, top_p=0.75, dtype=torch.float32) == [[0], [0, 1, 2, 3], [2, 3]]


def test_random_shares_against_exact_arithmetic():
    generator = torch.Generator().manual_seed(0)
    masses = torch.randint(0, 9, (40, 13), generator=generator)
    masses[:, 0] += 1
    sizes = set()
    for tenths in range(1, 11):
        found = select_experts(expert_shares(masses), tenths / 10)
        assert found == [smallest_prefix(row, Fraction(tenths, 10)) for row in masses.tolist()]
        sizes |= {len(ids) for ids in found}
    assert len(sizes) > 8


@pytest.mark.parametrize(
    "scores", [[0.5, 0.4], [0.6, 0.5], [1.5, -0.5], [float("nan"), 0.5], [0.0, 0.0], [1.0, 1.0], [0.3335, 0.6667]]
)
def test_what_is_no_share_of_one_is_refused(scores):
    with pytest.raises(TrainingError, match="scores are shares that sum to 1 in every layer"):
        select([0.5, 0.5], scores, top_p=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounded_shares_are_summed_as_they_stand(dtype):
    """0.2 is reached by 0.1001 + 0.0999 as they stand; of their sum 1.0003, 0.1999 is too little."""
    rounded = [0.1001, 0.0999, *[0.0889] * 9, 0.0002]
    assert sum(rounded) == pytest.approx(1.0003)
    assert select(rounded, top_p=0.2 - 1e-6, dtype=dtype) == [[0, 1]]
    rescaled = [score / sum(rounded) for score in rounded]
    assert select(rescaled, top_p=0.2 - 1e-6) == [[0, 1, 2]], "control"
    assert select(rounded, top_p=1.0, dtype=dtype) == [list(range(11))]
    short = [0.3333, 0.3333, 0.3333, 0.0]
    assert select(short, top_p=1.0, dtype=dtype) == [[0, 1, 2]], "where no sum reaches top_p, all that count"


@pytest.mark.parametrize("off", [0.0032, -0.0031])
def test_no_more_than_rounding_explains_is_accepted(off):
    """64 shares of four decimals: each is off by at most 0.00005, their sum by less than 0.0032."""
    shares = [0.0156] * 63
    at = round(1 - sum(shares), 4)
    assert select([*shares, round(at + off * 0.9, 4)], top_p=0.01) != []
    with pytest.raises(TrainingError, match="shares that sum to 1 in every layer, but for rounding"):
        select([*shares, round(at + off * 1.1, 4)], top_p=0.01)


@pytest.mark.parametrize("top_p", [0.0, -1.0, 1.5])
def test_top_p_is_a_share(top_p):
    with pytest.raises(TrainingError, match=rf"top_p is a share of the score, above 0 and at most 1; got {top_p}"):
        select([0.5, 0.5], top_p=top_p)
    with pytest.raises(TrainingError, match=rf"above 0 and at most 1; got {top_p}"):
        METHODS["esft_gate"](MethodConfig(top_p=top_p))


@both
def test_at_least_one_row_is_scored(name):
    with pytest.raises(TrainingError, match="score_rows is a number of rows, at least 1; got 0"):
        METHODS[name](MethodConfig(score_rows=0))
    assert METHODS[name](MethodConfig(score_rows=1)).score == name.removeprefix("esft_")


# Tables of usage as they are published: ours, and those of DeepSeek-V2-Lite by ESFT where they are at hand.


@pytest.mark.parametrize("kind", ["selection_counts", "top_k_gate_mass"])
@pytest.mark.parametrize("table", USAGE)
def test_smallest_sets_on_tables_of_usage(table, kind):
    usage = json.loads(USAGE[table].read_text())
    masses = usage[kind]
    shares = expert_shares(torch.tensor(masses, dtype=torch.float64))
    layers = len(usage["layers"])
    assert shares.shape == (layers, usage["num_experts"])
    assert torch.allclose(shares.sum(dim=1), torch.ones(layers, dtype=torch.float64), rtol=0, atol=1e-12)
    found = select_experts(shares, 0.2)
    assert found == [smallest_prefix(row, Fraction(1, 5)) for row in masses]
    for row, ids in zip(masses, found, strict=True):
        part = sum(Fraction(row[i]) for i in ids) / sum(map(Fraction, row))
        assert part >= Fraction(1, 5) > part - Fraction(row[ids[-1]]) / sum(map(Fraction, row))
    assert found != select_experts(shares, 0.25)


@pytest.mark.parametrize(
    ("table", "other", "experts"),
    [
        # In layer 3, the two largest hold exactly a fifth: 250 + 150 of 2000. Layer 2 has a tie at 121, not taken.
        ("letters", "riddles", {1: [13, 4, 1], 2: [3, 1, 5], 3: [3, 7]}),
        # results/expert_configs/intent.json of ESFT's release, from the same counts.
        (
            "deepseek_v2_lite_intent",
            "deepseek_v2_lite_law",
            {1: [8, 26, 55, 6, 20], 13: [6, 37, 29, 63], 15: [0, 6, 15, 9, 16]},
        ),
    ][: len(folders("router_usage", "router_usage"))],
    ids=["ours", "esft"][: len(folders("router_usage", "router_usage"))],
)
def test_the_chosen_experts_by_layer(table, other, experts):
    usage = json.loads(USAGE[table].read_text())
    found = select_experts(expert_shares(torch.tensor(usage["selection_counts"])), 0.2)
    of_layer = dict(zip(usage["layers"], found, strict=True))
    assert {layer: of_layer[layer] for layer in experts} == experts
    counts = torch.tensor(json.loads(USAGE[other].read_text())["selection_counts"])
    assert select_experts(expert_shares(counts), 0.2)[0] != found[0], "control: another task takes other experts"


PUBLISHED = {
    "intent": "72d4b9aabe26f3c6",
    "law": "2b87abb61a062060",
    "summary": "630bac20d4d4cfc9",
    "translation": "9cffa16adcd1cef0",
}
"""Of `results/expert_configs/TASK.json` in ESFT's release, SHA-256 of the experts of layers 1 to 26, as JSON."""


def digest_of(chosen):
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]


@pytest.mark.parametrize("task", PUBLISHED if len(folders("router_usage", "router_usage")) > 1 else [])
def test_scores_as_published_give_the_published_choice_in_all_layers(task):
    """The release rounds its scores to four decimals, and chooses by their running sum."""
    usage = json.loads(USAGE[f"deepseek_v2_lite_{task}"].read_text())
    rounded = torch.tensor(
        [[round(count / sum(row), 4) for count in row] for row in usage["selection_counts"]], dtype=torch.float64
    )
    assert len(rounded) == 26
    assert digest_of(select_experts(rounded, 0.2)) == PUBLISHED[task]
    assert digest_of(select_experts(rounded, 0.21)) != PUBLISHED[task], "control"


@pytest.mark.parametrize("table", USAGE)
def test_rounded_scores_are_chosen_from_as_their_running_sum_says(table):
    usage = json.loads(USAGE[table].read_text())
    for row in usage["selection_counts"]:
        tenths = [Fraction(round(10_000 * count / sum(row))) for count in row]  # of a thousandth, in exact arithmetic
        order = sorted(range(len(row)), key=lambda i: (-tenths[i], i))
        taken = next(n for n in range(1, len(row)) if sum(tenths[i] for i in order[:n]) >= 2000)
        scores = torch.tensor([[float(t) / 10_000 for t in tenths]], dtype=torch.float64)
        assert select_experts(scores, 0.2) == [order[:taken]]


# Scores of a model on data.


QUESTIONS = ["0123456789", "a few words", "to learn merges from, a few words to learn", "x"]
ANSWERS = ["learn", "from 0 to 9", "a", "words, words, merges"]


def conversations(tool=lambda text: text):
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": tool(question)}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
        ]
    )


def tokens_of(dataset, rows=None, max_length=None):
    texts = [
        tokenizer().apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
        for row in dataset.to_list()[:rows]
    ]
    return [tokenizer()(text, add_special_tokens=False)["input_ids"][:max_length] for text in texts]


def scored_by_hand(model, rows, recorded_routing, kind):
    """One row at a time, without padding: selections or gate weights of every expert over their sum."""
    sums = [[0.0] * 8 for _ in moe_layers(model)]
    with recorded_routing(model) as calls, torch.no_grad():
        for row in rows:
            model(input_ids=torch.tensor([row]))
    for layer, _, weights, indices in calls:
        for token in zip(indices.tolist(), weights.tolist(), strict=True):
            for expert, weight in zip(*token, strict=True):
                sums[layer][expert] += 1 if kind == "token" else weight
    tokens = sum(map(len, rows))
    if kind == "token":
        assert all(sum(row) == tokens * 3 for row in sums)
    return [[value / sum(row) for value in row] for row in sums]


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2"])
@pytest.mark.parametrize("kind", ["token", "gate"])
def test_scores_are_shares_of_selections_and_of_gate_weights(kind, family, recorded_routing):
    model = tiny_model(family, vocab_size=len(tokenizer()))
    found = score_experts(model, tokenizer(), conversations(), kind, rows=128)
    rows = tokens_of(conversations())
    assert len({len(row) for row in rows}) > 1, "rows are padded in a batch"
    expected = scored_by_hand(model, rows, recorded_routing, kind)
    assert found.shape == (len(moe_layers(model)), 8)
    assert found.tolist() == [pytest.approx(row, rel=1e-6, abs=1e-12) for row in expected]
    other = scored_by_hand(model, rows, recorded_routing, {"token": "gate", "gate": "token"}[kind])
    assert found[0].tolist() != pytest.approx(other[0], rel=1e-2)
    assert found.sum(dim=1).tolist() == pytest.approx([1.0] * len(found), abs=1e-12)
    assert not model.training


@pytest.mark.parametrize(("rows", "max_length"), [(2, None), (4, 5), (1, 3)])
def test_rows_and_max_length_are_respected(rows, max_length, recorded_routing):
    model, data = tiny_model(vocab_size=len(tokenizer())), conversations()
    found = score_experts(model, tokenizer(), data, "token", rows=rows, max_length=max_length)
    ids = tokens_of(data, rows, max_length)
    assert sum(map(len, ids)) < sum(map(len, tokens_of(data)))
    assert found.tolist() == [pytest.approx(row) for row in scored_by_hand(model, ids, recorded_routing, "token")]
    assert not torch.equal(found, score_experts(model, tokenizer(), data, "token", rows=128))


def test_prompts_count_as_well_as_answers():
    model = tiny_model(vocab_size=len(tokenizer()))
    shares = score_experts(model, tokenizer(), conversations(), "token", rows=128)
    other = score_experts(model, tokenizer(), conversations(str.upper), "token", rows=128)
    assert not torch.equal(shares, other)


@both
def test_choosing_by_scores(name):
    model = tiny_model("deepseek_v2")
    scores = torch.tensor([[0, 0, 0.5, 0, 0.25, 0.25, 0, 0], [0.125] * 8], dtype=torch.float64)
    method = METHODS[name](MethodConfig(top_p=0.6, non_expert_modules=True))
    chosen = method.choose(moe_layers(model), scores)
    assert chosen == method.chosen == ExpertConfig({"1": [2, 4], "2": [0, 1, 2, 3, 4]}, False, True)
    method.prepare(model)
    assert [layer.experts.trained_ids.tolist() for layer in moe_layers(model)] == [[2, 4], [0, 1, 2, 3, 4]]


def test_without_a_choice_nothing_is_trained():
    with pytest.raises(TrainingError, match="ESFT trains experts chosen by score: set expert_config, or score data"):
        METHODS["esft_token"]().prepare(tiny_model())


# expert_cfg.json.


def test_the_file_is_that_of_esft_s_release(tmp_path):
    path = tmp_path / "expert_cfg.json"
    ExpertConfig({"1": [8, 26], "13": [6]}).write(path)
    assert json.loads(path.read_text()) == {
        "experts": {"1": [8, 26], "13": [6]},
        "shared_experts": False,
        "non_expert_modules": False,
    }
    assert list(json.loads(path.read_text())) == ["experts", "shared_experts", "non_expert_modules"]
    for config in (
        ExpertConfig({"1": [8, 26], "13": [6]}),
        ExpertConfig({"0": [3, 1, 2]}, shared_experts=True),
        ExpertConfig({"0": []}, non_expert_modules=True),
    ):
        config.write(path)
        assert ExpertConfig.read(path) == config


def test_layers_are_counted_in_the_decoder_not_among_those_with_experts():
    """The first layer of a tiny DeepSeek-V2 is dense; of OLMoE none is."""
    for family, keys in (("deepseek_v2", ["1", "2"]), ("olmoe", ["0", "1", "2"])):
        model = tiny_model(family)
        layers = moe_layers(model)
        assert [str(decoder_depth(layer)) for layer in layers] == keys
        scores = torch.full((len(layers), 8), 0.125)
        assert list(METHODS["esft_gate"]().choose(layers, scores).experts) == keys


def test_of_layers_is_in_the_order_of_the_layers():
    layers = moe_layers(tiny_model())
    assert ExpertConfig({"2": [7], "0": [1, 5], "1": []}).of_layers(layers) == [[1, 5], [], [7]]


@pytest.mark.parametrize(
    "experts",
    [{"1": [0], "2": [0]}, {"0": [0], "1": [0], "2": [0], "3": [0]}, {"0": [0], "1": [8], "2": [0]}, {}],
)
def test_the_file_of_another_model_is_refused(experts):
    model = tiny_model()
    with pytest.raises(TrainingError, match=r"(?s)of another model.*MoE layers 0, 1, 2 of 8 experts.*condenser score"):
        method_for(model, experts=experts).prepare(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("ids", [[1, 1], [-1, 2]])
def test_ids_that_name_no_expert_or_one_twice_are_refused(ids):
    model = tiny_model()
    with pytest.raises(TrainingError, match=r"distinct ids from 0 on|is of another model"):
        method_for(model, experts={"0": [3], "1": ids, "2": [0]}).prepare(model)
    assert all(parameter.requires_grad for parameter in model.parameters()), "refused before anything was frozen"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"experts": {"1": [0]}}',
        '{"experts": {"1": [0]}, "shared_experts": false}',
        '{"experts": [[0], [1]], "shared_experts": false, "non_expert_modules": false}',
        '{"experts": {"first": [0]}, "shared_experts": false, "non_expert_modules": false}',
        '{"experts": {"1": 3}, "shared_experts": false, "non_expert_modules": false}',
        '{"experts": {"1": ["a"]}, "shared_experts": false, "non_expert_modules": false}',
        '{"experts": {"1": [null]}, "shared_experts": false, "non_expert_modules": false}',
        '{"experts": {"1": [1.9]}, "shared_experts": false, "non_expert_modules": false}',
        '{"experts": {"1": [1]}, "shared_experts": "false", "non_expert_modules": false}',
    ],
)
def test_a_file_of_another_kind_is_refused_before_a_model_is_loaded(tmp_path, text):
    path = tmp_path / "expert_cfg.json"
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"expert_config is an expert_cfg.json as ESFT writes it; .*expert_cfg"):
        METHODS["esft_token"](MethodConfig(expert_config=str(path)))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="must be a readable file"):
        METHODS["esft_token"](MethodConfig(expert_config=str(tmp_path / "none.json")))


@both
def test_a_file_brings_the_experts_and_the_switches(tmp_path, name):
    path = tmp_path / "expert_cfg.json"
    ExpertConfig(CHOSEN["qwen2_moe"], shared_experts=True).write(path)
    model = tiny_model("qwen2_moe")
    METHODS[name](MethodConfig(expert_config=str(path))).prepare(model)
    assert [layer.experts.trained_ids.tolist() for layer in moe_layers(model)] == [[1, 5], [0], [2, 3, 7]]
    assert any("shared_expert" in key for key in trainable(model))


@pytest.mark.parametrize("option", [{"top_p": 0.3}, {"score_rows": 8}, {"shared_experts": True}])
def test_options_of_the_scoring_have_no_effect_beside_a_file(tmp_path, option):
    path = tmp_path / "expert_cfg.json"
    ExpertConfig(CHOSEN["olmoe"]).write(path)
    with pytest.raises(TrainingError, match=f"{next(iter(option))} has no effect; leave it out"):
        METHODS["esft_token"](MethodConfig(expert_config=str(path), **option))


def test_a_file_that_names_no_expert_trains_nothing_and_is_refused():
    with pytest.raises(TrainingError, match="esft_token with these options trains no parameter"):
        prepared("olmoe", experts={"0": [], "1": [], "2": []})


def test_other_experts_than_those_that_train_already_are_refused():
    model = prepared("olmoe")
    with pytest.raises(TrainingError, match=r"trains the experts .* already; got"):
        method_for(model, experts={"0": [6], "1": [6], "2": [6]}).prepare(model)


@pytest.mark.parametrize("router", [None, "train"])
def test_everything_may_train_beside_the_chosen_experts(router):
    model = prepared("olmoe", non_expert_modules=True, router=router)
    fused = {name for name, _ in model.named_parameters() if name.endswith(("gate_up_proj", "down_proj"))}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name in fused if SLICES not in name}


# What trains.


@pytest.mark.parametrize("family", ["olmoe", "qwen2_moe", "deepseek_v2", "deepseek_v2_grouped"])
@both
def test_only_the_slices_of_the_chosen_experts_train(family, name):
    model = prepared(family, name=name)
    layers = moe_layers(model)
    expected = {f"{x.block}.experts.{SLICES}.{key}" for x in layers for key in ("gate_up_proj", "down_proj")}
    assert trainable(model) == expected
    for layer, ids in zip(layers, CHOSEN[model.config.model_type].values(), strict=True):
        assert layer.experts.trained_ids.tolist() == sorted(ids)
    with torch.no_grad():
        stock = tiny_model(family)(input_ids=tiny_batch()).logits
        assert torch.equal(model(input_ids=tiny_batch()).logits, stock)


EXPERTS, SHARED = {"routed experts"}, {"shared experts"}
OTHERS = {"qwen2_moe": {"attention", "embeddings", "norms"}}
OTHERS["deepseek_v2"] = OTHERS["qwen2_moe"] | {"other"}


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, lambda others: set()),
        ({"shared_experts": True}, lambda others: SHARED),
        ({"non_expert_modules": True}, lambda others: others | {"router"}),
        ({"router": "train"}, lambda others: {"router"}),
        ({"router": "freeze"}, lambda others: set()),
        ({"shared_experts": True, "router": "train"}, lambda others: SHARED | {"router"}),
        ({"shared_experts": True, "router": "freeze"}, lambda others: SHARED),
        ({"non_expert_modules": True, "router": "train"}, lambda others: others | {"router"}),
        ({"non_expert_modules": True, "router": "freeze"}, lambda others: others),
        ({"shared_experts": True, "non_expert_modules": True, "router": "freeze"}, lambda others: others | SHARED),
    ],
)
def test_switches(family, options, more):
    model = prepared(family, **options)
    groups, names = parameter_groups(model, moe_layers(model)), trainable(model)
    wanted = EXPERTS | more(OTHERS[family])
    assert {groups[key] for key in names} == wanted
    whole = {key for key, group in groups.items() if group in wanted - EXPERTS}
    slices = {key for key in groups if f".{SLICES}." in key}
    assert names == whole | slices, "of a group that trains, every parameter does; of the experts, the slices"


@pytest.mark.parametrize("options", [{"non_expert_modules": True, "router": "freeze"}, {"router": "train"}])
def test_switches_of_a_model_without_shared_experts(options):
    model = prepared(**options)
    groups = parameter_groups(model, moe_layers(model))
    others = {"attention", "embeddings", "norms"} if "non_expert_modules" in options else {"router"}
    assert {groups[key] for key in trainable(model)} == EXPERTS | others


def test_shared_experts_where_there_are_none():
    with pytest.raises(TrainingError, match="shared_experts trains the shared experts, and this model has none"):
        prepared(shared_experts=True)


def test_an_adapter_s_mode_without_an_adapter():
    with pytest.raises(TrainingError, match="router='lora' trains adapters on the routers, and this run has none"):
        prepared(router="lora")


@pytest.mark.parametrize("options", [{"non_expert_modules": True}, {"router": "train"}, {"shared_experts": True}])
def test_what_came_frozen_stays_frozen(options):
    """ERNIE's correction bias is a frozen parameter of the router, and a norm is frozen here by hand."""
    model = tiny_model("ernie4_5_moe")
    norm = "model.layers.1.input_layernorm.weight"
    model.get_parameter(norm).requires_grad_(False)
    came = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert any("e_score_correction_bias" in key for key in came)
    experts = {str(decoder_depth(layer)): [2, 5] for layer in moe_layers(model)}
    method_for(model, experts=experts, **options).prepare(model)
    assert not came & trainable(model)
    groups = parameter_groups(model, moe_layers(model))
    learning = "shared experts" if "shared_experts" in options else "router"
    assert learning in {groups[key] for key in trainable(model)}


def test_a_layer_may_train_no_expert():
    model = prepared(experts={"0": [], "1": [6, 1], "2": []})
    assert [is_sliced(layer) for layer in moe_layers(model)] == [False, True, False]
    assert all(".layers.1." in key for key in trainable(model))


def test_experts_that_were_not_chosen_stay_bit_for_bit():
    model = prepared(router="train")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for seed in range(3):
        ids = tiny_batch(3, 7, seed=seed)
        model.train()(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    found, start = model.state_dict(), tiny_model().state_dict()
    for index, ids in enumerate(CHOSEN["olmoe"].values()):
        key = f"model.layers.{index}.mlp.experts.down_proj"
        same = [expert for expert in range(8) if torch.equal(found[key][expert], start[key][expert])]
        assert same == [expert for expert in range(8) if expert not in ids]
    moved = {key for key in start if not torch.equal(found[key], start[key])}
    assert {key.split(".mlp.")[1] for key in moved} == {"gate.weight", "experts.gate_up_proj", "experts.down_proj"}


# A resume.


@both
def test_a_resume_with_other_experts_is_refused(name):
    model = tiny_model()
    method = method_for(model, name)
    state = json.loads(json.dumps(method.state_dict()))
    assert state == {"method": name, "phase": "train", "experts": CHOSEN["olmoe"]}
    method_for(model, name).load_state_dict(state)
    with pytest.raises(TrainingError, match=r"goes on with the experts that it trained, .*\[4\].*asked for .*\[1, 5\]"):
        method.load_state_dict({**state, "experts": {**CHOSEN["olmoe"], "0": [4]}})
    with pytest.raises(TrainingError, match="goes on with the state it had; that of the checkpoint lacks experts"):
        method.load_state_dict({key: value for key, value in state.items() if key != "experts"})
