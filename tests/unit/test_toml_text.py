import time

import pytest

from inventory.loading.problems import LoadingError
from inventory.loading.toml_text import FILE_MAX_BYTES, parse_toml


def refused(data):
    with pytest.raises(LoadingError) as caught:
        parse_toml(data, "x.toml")
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


@pytest.mark.parametrize(
    "data",
    [
        b"a = " + b"[" * 100_000,
        b"a = " + b"{a=" * 100_000,
        b"a = " + b"[" * 33 + b"]" * 33,
        b"a = [" + b'"]", [' * 40,
        b'a = ["""\n]]]]""", ' + b"[" * 33,
        b"a = ['''\n]]]]''', " + b"[" * 33,
        b"a = [ # ]]]]\n" + b"[" * 33,
    ],
)
def test_h31_deep_nesting_is_refused_before_the_parser_runs(data):
    assert "nested deeper than 32" in refused(data).what


def test_brackets_in_strings_and_comments_do_not_nest():
    deep = "[" * 100
    lines = [f'a = "{deep}"', f"b = '{deep}'", f"# {deep}", f'c = """\n{deep} \\" {deep}\n"""', f"d = '''\n{deep}'''"]
    text = "\n".join([*lines, "e = [1]"])
    assert parse_toml(text.encode(), "x.toml").table["e"] == [1]
    many = "".join(f"a{n} = [[1], {{b = 2}}]\n" for n in range(100))
    assert len(parse_toml(many.encode(), "x.toml").table) == 100


def test_h31_keys_of_too_many_parts_are_refused():
    assert refused(b".".join([b"a"] * 100_000) + b" = 1").what


@pytest.mark.parametrize(
    "data",
    [
        b'a = "' + b'"""\\' * 200_000,
        b'a = """' + b'\\"""' * 200_000,
        b"a = '" * 200_000,
        b'"' * 400_000,
        b"'" * 400_000,
        b"[[\n" * 200_000,
        b"#[[[\n" * 200_000 + b"x",
    ],
)
def test_h31_a_scan_made_to_be_slow_is_not(data):
    began = time.process_time()
    refused(data)
    assert time.process_time() - began < 1.5


def test_h31_too_large():
    assert "larger than 10 MiB" in refused(b"#" * (FILE_MAX_BYTES + 1)).what


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a = 1\na = 2\n", "a key or table is given twice"),
        ("a = 1\n".encode("utf-16"), "save it as UTF-8"),
        (b"a = 1\nb = '\xff'\n", "not UTF-8 (at line 2)"),
        (b"a = 1\rb = 2\r", "carriage return"),
        (b"a:\n  - b\n", "line 1"),
        (b"a = &x 1\n", "line 1"),
        (b"a = 1\n\tb 2\n", "line 2"),
        (b"a = \x00\n", "line 1"),
        (b"a = " + b"9" * 5000, "not TOML"),
        (b"{", "line 1"),
    ],
)
def test_h31_what_is_not_toml_says_where(data, words):
    assert words in str(refused(data))


def test_tabs_are_spaces():
    assert parse_toml(b"\ta\t=\t1\n", "x.toml").table == {"a": 1}


def test_lines_of_tables():
    text = parse_toml(b'a = 1\n[[x]]\n# [[x]]\n[[ "x" ]]\nb = 2\r\n  [[x]]\n[[y]]\n', "x.toml")
    assert text.lines_of("x", 3) == [2, 4, 6]
    assert text.lines_of("y", 1) == [7]
    assert text.lines_of("x", 2) == [None, None]
