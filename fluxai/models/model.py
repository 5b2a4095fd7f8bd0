"""`Model`: one model that can be paid for, as a record."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

ModelTier = Literal["fast", "balanced", "premium"]


def _no_float(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(  # noqa: TRY004 -- pydantic turns a ValueError into its own error
            f"floats can't hold money exactly; pass Decimal('{value}') or the text '{value}'"
        )
    return value


#: USD; never a float.
Price = Annotated[
    Decimal,
    BeforeValidator(_no_float),
    Field(ge=0, le=Decimal(1_000_000), allow_inf_nan=False),
]


class Model(BaseModel):
    """A model: where it runs, what it is able to do, and what it costs.

    Prices are in USD. Those of tokens are per million. A price of `None` means that the kind is
    billed like its parent: cached and audio input like input, reasoning like output. A record with
    no price at all is refused unless it says `free=True`: nothing is priced at zero by omission.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=256)]
    name: Annotated[str | None, Field(max_length=256)] = None
    provider: Annotated[str, Field(min_length=1, max_length=64)] = "custom"
    display_name: Annotated[str | None, Field(max_length=256)] = None
    category: Literal["llm"] = "llm"
    tier: ModelTier = "balanced"
    capabilities: frozenset[str] = frozenset({"text"})

    input_price: Price | None = None
    output_price: Price | None = None
    cache_read_price: Price | None = None
    cache_write_price: Price | None = None
    cache_write_1h_price: Price | None = None
    reasoning_price: Price | None = None
    audio_input_price: Price | None = None
    audio_output_price: Price | None = None
    image_input_price: Price | None = None
    image_output_price: Price | None = None

    price_per_call: Price | None = None
    price_per_second: Price | None = None
    price_per_image: Price | None = None
    price_per_character: Price | None = None
    price_per_page: Price | None = None
    price_per_search: Price | None = None

    context_window: Annotated[int | None, Field(gt=0, le=10**12)] = None
    max_output: Annotated[int | None, Field(gt=0, le=10**12)] = None
    enabled: bool = True
    free: bool = False
    deprecated: bool = False

    @model_validator(mode="before")
    @classmethod
    def _names(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("id"), str):
            values = dict(values)
            values["name"] = values.get("name") or values.get("display_name") or values["id"]
            values["display_name"] = values.get("display_name") or values["name"]
        return values

    @model_validator(mode="after")
    def _priced(self) -> Model:
        if not self.free and not any(getattr(self, field) is not None for field in PRICE_KINDS):
            raise ValueError(
                "a model needs a price, such as input_price and output_price in USD per million "
                "tokens, or price_per_call; if nothing is charged for it, say free=True"
            )
        return self

    def prices(self) -> dict[str, int]:
        """Return the rates in nano-USD per million units, by kind."""
        rates = {}
        for field, (kind, units) in PRICE_KINDS.items():
            price: Decimal | None = getattr(self, field)
            if price is not None:
                rates[kind] = int((price * 10**15 / units).to_integral_value("ROUND_CEILING"))
        return rates


#: Field of `Model` → the kind it prices, and for how many units.
PRICE_KINDS = {
    "input_price": ("input", 1_000_000),
    "output_price": ("output", 1_000_000),
    "cache_read_price": ("cache_read", 1_000_000),
    "cache_write_price": ("cache_write_5m", 1_000_000),
    "cache_write_1h_price": ("cache_write_1h", 1_000_000),
    "reasoning_price": ("reasoning", 1_000_000),
    "audio_input_price": ("audio_in", 1_000_000),
    "audio_output_price": ("audio_out", 1_000_000),
    "image_input_price": ("image_in", 1_000_000),
    "image_output_price": ("image_out", 1_000_000),
    "price_per_call": ("request", 1),
    "price_per_second": ("seconds", 1),
    "price_per_image": ("image", 1),
    "price_per_character": ("characters", 1),
    "price_per_page": ("page", 1),
    "price_per_search": ("web_search", 1),
}
