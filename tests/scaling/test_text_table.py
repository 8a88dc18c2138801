"""The one table for terminals: aligned, whole, and as given."""

from scaling.text_table import text_table


def test_columns_align_and_wide_characters_count_twice():
    table = text_table(["run", "N"], [["a", 1], ["日本", "10,000"]])
    assert table.splitlines() == ["run        N", "-" * 12, "a          1", "日本  10,000"]


def test_columns_named_left_are_flush_left_and_the_rule_can_be_left_out():
    rows = [["a", "1", "x"], ["bb", "22", "yyy"]]
    table = text_table(["", "n", "why"], rows, left=(0, 2), rule=False)
    assert table.splitlines() == ["     n  why", "a    1  x", "bb  22  yyy"]


def test_cells_are_neither_markup_nor_wrapped_nor_cut():
    name = "[bold]" + "very long " * 50 + ":smile: \\[x]"
    assert text_table(["name"], [[name]]).splitlines()[2] == name


def test_a_table_without_rows_is_its_header():
    assert text_table(["run", "N"], []).splitlines() == ["run  N", "------"]
