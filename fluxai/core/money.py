"""Money: integer nano-USD (1e-9 USD) inside, `Decimal` at the surface, float nowhere."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from fluxai.core.errors import InvalidRequest

NANOS_PER_USD = 1_000_000_000
PER_MILLION = 1_000_000
#: A thousand million USD: far above any budget, far below the signed 64-bit ceiling of the stores.
MAX_NANOUSD = 1_000_000_000 * NANOS_PER_USD

Amount = Decimal | str | int


def to_nano(
    amount: object, field: str = "amount", *, round_up: bool = False, signed: bool = False
) -> int:
    """Turn an amount in USD into integer nano-USD.

    Args:
        amount: `Decimal`, `str` or `int`, in USD.
        field: The name that an error mentions.
        round_up: Round a finer amount up to the next nano-USD; otherwise it is refused.
        signed: Accept negative amounts (corrections).

    Raises:
        InvalidRequest: A float, a bool, NaN, an infinity, a negative or absurd amount, or one finer
            than a nano-USD.
    """
    if isinstance(amount, int) and not isinstance(amount, bool):
        if abs(amount) > MAX_NANOUSD:  # too long, perhaps, to be shown
            raise InvalidRequest(field, "must be at most 1,000,000,000 USD")
        nanos = amount * NANOS_PER_USD
    else:
        nanos = _decimal_to_nano(_decimal(amount, field), field, round_up=round_up)
    if nanos < 0 and not signed:
        raise InvalidRequest(field, f"must not be negative, got {amount}")
    if abs(nanos) > MAX_NANOUSD:
        raise InvalidRequest(field, f"must be at most 1,000,000,000 USD, got {amount}")
    return nanos


def _decimal(amount: object, field: str) -> Decimal:
    if isinstance(amount, Decimal):
        return amount
    if isinstance(amount, str):
        if len(amount) > 64:
            raise InvalidRequest(field, "is too long for an amount in USD; write it like '5.00'")
        try:
            return Decimal(amount.strip())
        except InvalidOperation:
            raise InvalidRequest(
                field, f"{amount!r} is not an amount in USD; write it like '5.00'"
            ) from None
    if isinstance(amount, float):
        raise InvalidRequest(
            field,
            f"floats can't hold money exactly; pass Decimal('{amount}') or the text '{amount}'",
        )
    raise InvalidRequest(
        field, f"must be a Decimal, str or int in USD, got {type(amount).__name__}"
    )


def _decimal_to_nano(value: Decimal, field: str, *, round_up: bool) -> int:
    if not value.is_finite():
        raise InvalidRequest(field, f"must be a finite amount in USD, got {value}")
    if not value:
        return 0
    if value.adjusted() > 12:
        raise InvalidRequest(field, f"must be at most 1,000,000,000 USD, got {value}")
    if value.adjusted() < -40:
        value = Decimal("1e-40").copy_sign(value)
    # In integers: arithmetic on Decimals rounds as the caller's decimal context says.
    top, bottom = value.as_integer_ratio()
    nanos = -(-top * NANOS_PER_USD // bottom)
    if nanos * bottom != top * NANOS_PER_USD and not round_up:
        raise InvalidRequest(field, f"{value} is finer than a nano-USD (0.000000001)")
    return nanos


def to_decimal(nanos: int) -> Decimal:
    """Turn integer nano-USD into an exact `Decimal` in USD, without trailing zeros past cents."""
    whole, rest = divmod(abs(nanos), NANOS_PER_USD)
    digits = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return Decimal(f"{'-' if nanos < 0 else ''}{whole}.{digits}")


def format_usd(nanos: int) -> str:
    """Write an amount as people read it: `$5.00`, `-$0.0123`, every nano kept."""
    value = to_decimal(abs(nanos))
    return f"{'-' if nanos < 0 else ''}${value:,f}"


def ceil_per_million(numerator: int) -> int:
    """Round nano-USD per million units up to whole nano-USD, once per call."""
    return -(-numerator // PER_MILLION)
