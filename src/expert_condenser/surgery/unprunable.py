"""The families that cannot have fewer experts, with the reason; read without torch.

What is said of a family here is what `cut_experts` finds of its models; a test holds both equal for every family.
"""

UNPRUNABLE: dict[str, str] = {
    "deepseek_v4": "its first layers have a table of experts for every token id",
    "ernie4_5_vl_moe": "its config has one number for the experts of text and of images",
}
"""Family -> why not."""
