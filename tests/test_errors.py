from expert_condenser.errors import DataError


def test_a_message_that_repeats_a_whole_file_is_cut():
    assert str(DataError("a" * 4_000)) == "a" * 4_000
    assert str(DataError("a" * 5_234)) == "a" * 4_000 + " … and 1,234 characters more"
