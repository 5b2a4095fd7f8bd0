"""Published names: short, the same in every process, and routed back by a map."""

from __future__ import annotations

from fluxai.mcp.gateway.names import NAME_MAX, NameMap, Target, published


def test_a_plain_name_is_the_server_and_the_tool() -> None:
    """What fits is left as it is."""
    assert published("time", Target("time", "convert_time")) == "time__convert_time"
    assert published("", Target("time", "convert_time")) == "convert_time"


def test_a_long_name_is_cut_and_keeps_a_hash_of_all_of_it() -> None:
    """Two names that differ only past the cut stay two names, of 64 characters at most."""
    one, two = (published("s", Target("s", "x" * 70 + end)) for end in "ab")
    assert len(one) == len(two) == NAME_MAX
    assert one != two
    assert one == published("s", Target("s", "x" * 70 + "a"))


def test_a_character_that_clients_refuse_is_replaced_and_told_apart() -> None:
    """`a.b` and `a/b` do not become the same name."""
    names = {published("s", Target("s", name)) for name in ("a.b", "a/b", "a_b")}
    assert len(names) == 3
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") for name in names)


def test_two_targets_never_share_a_name() -> None:
    """Where servers publish without a prefix, the second of a name gets a hash."""
    names = NameMap()
    first = names.publish("", Target("one", "search"))
    second = names.publish("", Target("two", "search"))
    assert first == "search" != second
    assert names.target(first) == Target("one", "search")
    assert names.target(second) == Target("two", "search")
    assert names.publish("", Target("one", "search")) == first
    assert names.target("neither") is None
