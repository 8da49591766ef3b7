import pytest

from inventory.errors import InputError
from inventory.loading.problems import LoadingError, Problem, Problems, TableReader, nearest


def test_one_problem_is_an_ordinary_error():
    error = LoadingError([Problem("f.toml", "a[0].b", "is wrong", "mend it", 3)])
    assert isinstance(error, InputError) and error.exit_code == 64
    assert str(error) == "f.toml:3: a[0].b: is wrong" and error.hint == "mend it"


def test_many_problems_are_counted_and_cut():
    error = LoadingError([Problem("f.toml", f"a[{n}]", "is wrong") for n in range(120)])
    lines = str(error).splitlines()
    assert lines[0] == "f.toml: 120 problems" and lines[-1] == "  and 70 more" and len(lines) == 52
    assert len(error.problems) == 120


def test_no_problem_raises_nothing():
    problems = Problems("f.toml")
    problems.raise_if_any()
    problems.add("a", "is wrong")
    with pytest.raises(LoadingError):
        problems.raise_if_any()


def test_hints_name_the_nearest_word_or_all():
    assert nearest("nmae", ["name", "from", "to"]) == "is name meant?"
    assert nearest("zzzzzz", ["name", "from", "to"]) == "known are from, name, to"
    assert nearest("x" * 1_000_000, ["name"]) == "known are name"


def test_a_reader_notes_and_goes_on():
    problems = Problems("f.toml")
    reader = TableReader({"a": 1, "b": True, "c": "x", "d": ["x", 1], "e": []}, "t[0]", problems, line=9)
    assert reader.text("a", '"x"') is None
    assert reader.number("b", "1") is None
    assert reader.text("c", '"x"') == "x"
    assert reader.texts("d", '["x"]') is None
    assert reader.texts("e", '["x"]') is None
    assert reader.text("f", '"x"') is None
    assert reader.is_good is False
    assert reader.text("f", '"x"', required=True) is None
    keys = [(p.key, p.what) for p in problems.found]
    assert keys == [
        ("t[0].a", "is not a string"),
        ("t[0].b", "is not a whole number"),
        ("t[0].d[1]", "is not a string"),
        ("t[0].e", "is empty: it would mean nobody and nothing"),
        ("t[0]", "f is missing"),
    ]
    assert {p.line for p in problems.found} == {9}
