"""Pure: a url of an agentless host is read as it is printed, or refused; nothing in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inventory.errors import InputError
from inventory.reach import ReachUrl, parse_reach

users = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.$#-]{0,10}", fullmatch=True)
addresses = st.one_of(
    st.ip_addresses(v=4, network="192.0.2.0/24").map(str),
    st.ip_addresses(v=6, network="2001:db8::/64").map(str),
    st.sampled_from(["aix1", "lpar.corp", "a-b.c"]),
)
urls = st.one_of(
    st.builds(ReachUrl, st.just("ssh"), addresses, users, st.integers(1, 65535)),
    st.builds(ReachUrl, st.sampled_from(["tcp", "tls"]), addresses),
)
SIGNS = "abs0129:/@[].-%?#\\ \n\u0430$tcplh"


@given(urls)
def test_what_is_printed_is_read_as_the_same(url: ReachUrl) -> None:
    assert parse_reach(str(url)) == url


@given(st.one_of(st.text(SIGNS), st.text(SIGNS).map("ssh://u@".__add__), st.text(SIGNS).map("tls://".__add__)))
def test_any_text_is_one_canonical_url_or_an_error_of_ours(text: str) -> None:
    try:
        url = parse_reach(text)
    except InputError:
        return
    assert parse_reach(str(url)) == url
    assert not set(url.user) & set(":@/ \n") and not url.user.startswith("-")
    assert url.port or url.scheme != "ssh"
