"""Which tests `make test` leaves to `make test-slow`: those that hold a promise for one more family, method or place.

A file that is named directly runs whole; only the two commands select. A test may also carry the marker `slow`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Slow(NamedTuple):
    """Slow tests of a file, those of them that stay fast by their parameters (regular expressions), and the reason."""

    file: str
    test: str
    fast: str
    reason: str


SLOW = (
    Slow(
        "training/test_equivalence_of_methods.py",
        "test_the_update_is_",
        r"\[olmoe-condenser|\[olmoe-\w+(-accumulation|-sorted_mm)?\]|\[(gpt_oss|deepseek_v2)-condenser(-accumulation)?\]",
        "240 s: four families, nine methods, eight ways; fast is one family, each method in two ways, condenser in all",
    ),
    Slow(
        "training/test_methods.py",
        "test_a_method_trains_resumes_and_reloads",
        r"\[olmoe-",
        "115 s: four families, nine methods; fast is each method on one family",
    ),
    Slow(
        "training/test_methods.py",
        "test_the_auxiliary_loss_is_the_training_s_and_not_the_model_s",
        r"\[(olmoe|deepseek_v2)\]",
        "7 s: four families; fast is one that computes the loss as transformers does, and one that has it from us",
    ),
    Slow(
        "training/test_run.py",
        "test_an_interrupted_run_ends_as_if_nothing_had_happened",
        "sparsify-on_step_end|condense-on_save",
        "19 s: seven places; fast is one in each phase",
    ),
    Slow(
        "training/test_run.py",
        "test_rows_grouped_by_length_are_in_the_same_order_after_a_resume",
        r"\[3\]",
        "7 s: two places",
    ),
    Slow(
        "adapters/test_adapters.py",
        "test_a_method_with_lora_trains_resumes_merges_and_reloads",
        r"\[olmoe-(sft|condenser|densemixer|esft_token)\]|\[gpt_oss-condenser\]",
        "66 s: two families, nine methods; fast is a method of each kind",
    ),
    Slow(
        "adapters/test_adapters.py",
        "test_stock_peft_refuses_an_adapter_with_router_state",
        r"\[olmoe\]",
        "22 s: two processes for each family",
    ),
    Slow(
        "adapters/test_in_effect.py",
        r".*\[",
        r"\[olmoe",
        "15 s: four families; fast is one",
    ),
    Slow(
        "adapters/test_expert_parts.py",
        "test_only_the_chosen_experts_learn",
        r"\[(olmoe-|gpt_oss-a deep copy)",
        "8 s: four families in six ways; fast is one family in all",
    ),
    Slow(
        "training/test_callback_restore.py",
        "test_(control|a_resume_goes_on|the_best_model_is)",
        r"\[(olmoe(-bias_only|-esft_gate)?|gpt_oss-sft)\]",
        "28 s: four families, three methods; fast is one family",
    ),
    Slow(
        "methods/test_sft.py",
        "test_frozen_routers_stand_still_and_all_else_moves",
        r"\[olmoe\]",
        "4 s: four families, as in training/test_methods.py",
    ),
    Slow(
        "methods/test_sft_aux.py",
        "test_(the_logged_loss_is_nll|with_accumulation_nll|routers_learn_something_else)",
        r"\[olmoe\]",
        "9 s: four families, as in training/test_methods.py",
    ),
    Slow(
        "checkpoint/test_router_state.py",
        "test_(a_model|a_state_dict|an_adapter)_with_it",
        r"-olmoe\]",
        "60 s: four families; fast is every fault for every reader",
    ),
    Slow(
        "moe/test_families.py",
        r".*\[",
        r"\b(olmoe|deepseek_v3|gpt_oss)\b",
        "46 s: every family; fast is softmax, sigmoid with groups and a correction, and softmax over the chosen",
    ),
    Slow(
        "moe/test_identity.py",
        r".*\[",
        r"-(olmoe|deepseek_v3|gpt_oss|mistral4|mistral_large4|kimi_linear)\]|test_control_",
        "90 s: every family; fast is the same three, and those that can sum scores in half precision",
    ),
    Slow(
        "moe/test_methods_by_family.py",
        "test_(the_method_trains|esft_trains|lora_trains)",
        r"\[(phimoe|llama4_text|dbrx)\]",
        "80 s: ten families; fast are three that differ most",
    ),
    Slow(
        "planning/test_traced_families.py",
        r".*\[",
        r"\[(olmoe|deepseek_v3|gpt_oss|dbrx)\]",
        "150 s: every family; fast are three, and one that is refused",
    ),
    Slow(
        "moe/test_experts.py",
        r".*\[",
        r"\b(olmoe|deepseek_v3|gpt_oss)\b",
        "15 s: every family, the same three",
    ),
    Slow(
        "test_registration.py",
        "test_(a_saved_model_loads|an_adapter_loads|our_experts_implementation|a_config_type_can_be_used)",
        r"a_saved_model_loads\[code[01]\]|\[code0\]|for_model",
        "170 s: orders of imports, a process for each; fast are ours first, and for a model also transformers first",
    ),
    Slow(
        "test_registration.py",
        "test_(pickle_finds|programs_that_build)",
        r"\[0\]|import expert_condenser\]",
        "20 s: a process for each order of imports; fast is ours first",
    ),
    Slow(
        "moe/test_recycled.py",
        "test_a_run_resumes",
        r"\[0\.3\]",
        "9 s: three factors on the rate of the rest; fast is one that needs parameter groups and slices",
    ),
    Slow(
        "surgery/test_cut.py",
        "test_it_is_the_model_without_these_experts",
        r"\[(olmoe_normalized|deepseek_v2_grouped|glm4_moe)\]",
        "60 s: every family; fast are a softmax, groups, and groups with a correction bias",
    ),
)


def slow_tests(names: Sequence[str], whole: bool) -> set[str]:
    """The slow ones among the names of collected tests, which start behind `tests/`.

    With `whole` files collected, an entry that matches nothing in its file, or leaves nothing fast, is a `ValueError`:
    a test was renamed, and its entry has to follow.
    """
    found = set()
    for entry in SLOW:
        of_file = [name for name in names if name.startswith(f"{entry.file}::")]
        named = [name for name in of_file if re.match(entry.test, name.partition("::")[2])]
        slow = [name for name in named if not re.search(entry.fast, name)]
        if whole and of_file and not 0 < len(slow) < len(named):
            raise ValueError(
                f"an entry of tests/slow.py has slow and fast tests; of {entry.file}::{entry.test} there are "
                f"{len(named)}, {len(slow)} of them slow; change the entry as the tests were changed"
            )
        found.update(slow)
    return found
