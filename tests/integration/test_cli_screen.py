"""How answers are drawn: nothing cut off, numbers that people can read, bars that do not lie."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fluxai.cli.figures import count, span, unit_price, until, usd, usd_left
from fluxai.cli.rich_screen import RichScreen
from fluxai.cli.screen import Column, Meter, PlainScreen, Section, Table, Text, printable

WIDE = Table(
    (
        Column("Budget", fold=True),
        Column("Used"),
        *(Column(f"Number {at}", right=True) for at in range(5)),
        Column("Last", right=True),
    ),
    [
        ("Z" * 40, Meter(3, 2, 10), *(f"{at}Z{at}" * 4 for at in range(5)), "ZZ ZZ"),
        ("daily tenant", Meter(0, 0, 0), *("Z" for _ in range(5)), "Z"),
    ],
    ("Total", "", *("ZZZ" for _ in range(5)), "Z"),
)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_nothing_is_cut_off_at_any_width(width: int) -> None:
    """A table that is too wide breaks its lines; no cell and no column is lost."""
    out = io.StringIO()
    screen = RichScreen(color=True, console=Console(file=out, width=width, highlight=False))
    screen.show(Section("Z title", [Text("Z line", "good"), WIDE, "Z end"]))
    shown = out.getvalue()
    cells = [cell for row in (*WIDE.rows, WIDE.total or ()) for cell in row]
    wanted = 3 + sum(cell.count("Z") for cell in cells if isinstance(cell, str))
    assert shown.count("Z") == wanted
    assert "…" not in shown
    assert max(len(line) for line in shown.splitlines()) <= width


def test_plain_text_is_aligned_and_one_row_is_one_line() -> None:
    """In a pipe every row stands on one line, so that it can be searched."""
    out = io.StringIO()
    PlainScreen(out).show(
        Section(
            "Title",
            [
                Table(
                    (Column("A"), Column("B", right=True)),
                    [("x\ny", "1"), (Text("long", "bad"), "22")],
                )
            ],
        )
    )
    assert out.getvalue() == "Title\n  A      B\n  x; y   1\n  long  22\n"


@given(
    st.decimals(0, 10**9, places=9),
    st.decimals(0, 10**9, places=9),
    st.decimals(0, 10**9, places=9),
    st.integers(2, 40),
)
def test_a_meter_shows_what_is_there(
    settled: Decimal, reserved: Decimal, limit: Decimal, width: int
) -> None:
    """A bar is as wide as told, full exactly when the limit is, and shows what is not nothing."""
    meter = Meter(settled, reserved, limit)
    parts = meter.parts(width)
    assert sum(parts) == width
    assert min(parts) >= 0
    if limit and settled + reserved < limit:
        assert parts[2] > 0
        assert (parts[0] > 0) >= (settled > 0 and width > 2)
        assert (parts[1] > 0) >= (reserved > 0 and width > 2)
    else:
        assert (parts[2] == 0) is (settled + reserved > 0)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("5", "$5.00"),
        ("1.605", "$1.605"),
        ("1234.5678", "$1,234.57"),
        ("0.0001234567", "$0.0001235"),
        ("0.000000001", "$0.000000001"),
        ("0.99999", "$1.00"),
        ("-0.0123", "-$0.0123"),
        ("999999999.99", "$999,999,999.99"),
    ],
)
def test_amounts_are_written_in_significant_digits(amount: str, text: str) -> None:
    """Small amounts are not rounded to nothing, and large ones have cents."""
    assert usd(Decimal(amount)) == text


@given(st.decimals("0.000000001", 10**9, places=9))
def test_what_is_left_is_never_shown_as_more(amount: Decimal) -> None:
    """A limit of which something is spent doesn't look untouched."""
    shown = Decimal(usd_left(amount).replace("$", "").replace(",", ""))
    assert amount * Decimal("0.999") < shown <= amount


@given(st.decimals("0.000000001", 10**9, places=9))
def test_no_amount_is_shown_as_nothing(amount: Decimal) -> None:
    """What costs something never looks free, and is at most 0.05 % off."""
    shown = Decimal(usd(amount).replace("$", "").replace(",", ""))
    assert shown > 0
    assert abs(shown - amount) <= amount * Decimal("0.0005")


def test_counts_prices_and_times_are_short() -> None:
    """Numbers in tables stay narrow without becoming wrong."""
    assert [count(number) for number in (0, 9_999_999, 12_345_678, 4_560_000_000)] == [
        "0",
        "9,999,999",
        "12.3 M",
        "4,560 M",
    ]
    assert unit_price(Decimal("0.0000003")) == "$0.30"
    assert unit_price(Decimal("0.1"), 1) == "$0.10"
    assert span(timedelta(days=3, hours=4, minutes=5)) == "3 d 4 h"
    assert span(timedelta(days=3, minutes=5)) == "3 d"
    assert span(timedelta()) == "0 s"
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert until(now + timedelta(hours=5, minutes=59), now) == "in 5 h"
    assert until(now - timedelta(seconds=7), now) == "7 s ago"
    assert until(None, now) == "never"


@given(st.text())
def test_nothing_that_is_shown_can_command_the_terminal(text: str) -> None:
    """Control characters in what others wrote are made visible, not obeyed."""
    assert all(sign.isprintable() or sign == "\n" for sign in printable(text))
