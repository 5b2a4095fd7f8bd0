"""Ids: UUIDs of version 7 that sort by time, and read back as they were written."""

from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.ids import Uuid7Source, uuid_int, uuid_text, uuid_time_us

AT_US = 1_768_478_400_123_456


@given(st.integers(0, 2**48 * 1_000 - 1), st.integers())
def test_an_id_is_a_uuid_of_version_7_with_its_time(at_us: int, seed: int) -> None:
    """Version, variant and milliseconds stand where RFC 9562 wants them."""
    made = Uuid7Source(seed)(at_us)
    read = uuid.UUID(uuid_text(made))
    assert (read.int, read.version, read.variant) == (made, 7, uuid.RFC_4122)
    assert uuid_time_us(made) == at_us // 1_000 * 1_000


def test_ids_sort_by_time() -> None:
    """A later millisecond is a larger id, as number and as text."""
    source = Uuid7Source()
    made = [source(AT_US + 1_000 * n) for n in range(100)]
    assert made == sorted(made)
    assert sorted(map(uuid_text, made)) == list(map(uuid_text, made))


def test_all_74_bits_are_drawn() -> None:
    """Every bit that is not time, version or variant comes up as 0 and as 1."""
    source = Uuid7Source(seed=1)
    made = [source(0) for _ in range(200)]
    free = sum(1 << bit for bit in range(76) if bit not in (62, 63))
    ones, zeros = 0, 0
    for one in made:
        ones |= one
        zeros |= ~one
    assert ones & free == zeros & free == free
    assert len(set(made)) == len(made)


def test_a_seeded_program_draws_no_ids_twice() -> None:
    """`random.seed()` in the user's program does not make two sources agree."""
    random.seed(7)
    first = Uuid7Source()(AT_US)
    random.seed(7)
    assert Uuid7Source()(AT_US) != first


@given(st.integers(0, 2**128 - 1))
def test_ids_read_back(number: int) -> None:
    """Text and number are the same id, in upper case too."""
    text = uuid_text(number)
    assert text == str(uuid.UUID(int=number))
    assert uuid_int(text) == uuid_int(text.upper()) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0193b0a0-0000-7000-8000-00000000000",
        "0193b0a0-0000-7000-8000-00000000000g",
        "0193b0a000007000800000000000000a1234",
        "0x93b0a0-0000-7000-8000-00000000000a",
        "+193b0a0-0000-7000-8000-00000000000a",
        "0193_0a0-0000-7000-8000-00000000000a",
        " 193b0a0-0000-7000-8000-00000000000a",
        "----0193b0a0000070008000000000000000",
        "0193b0a0-0000-7000-8000-00000000000a\n",
        "０193b0a0-0000-7000-8000-00000000000a",
        "{193b0a0-0000-7000-8000-00000000000}",
    ],
)
def test_what_only_looks_like_an_id_is_refused(text: str) -> None:
    """Other spellings of a number are other texts: two of them never name one id."""
    with pytest.raises(ValueError, match="UUID"):
        uuid_int(text)
