"""Tools are counted as the text that a model is given in their place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fluxai.costs.counting import count
from fluxai.costs.tooltext import as_json, as_signature, each, is_hosted

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Its name"},
        "days": {"type": "integer"},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "tags": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        "place": {"type": "object", "properties": {"lat": {"type": ["number", "null"]}}},
    },
    "required": ["city"],
}
ABOUT = {"name": "forecast", "description": "Say how the weather will be."}
SIGNATURE = """// Say how the weather will be.
type forecast = (_: {
// Its name
city: string,
days?: number,
unit?: "c" | "f",
tags?: string | null[],
place?: {
lat?: number | null,
},
}) => any;

"""


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {**ABOUT, "parameters": SCHEMA}},
        {"type": "function", **ABOUT, "parameters": SCHEMA},
        {**ABOUT, "input_schema": SCHEMA},
        {"toolSpec": {**ABOUT, "inputSchema": SCHEMA}},
        SimpleNamespace(**ABOUT, parameters=SCHEMA),
    ],
)
def test_every_form_of_a_tool_is_the_same_signature(tool: object) -> None:
    """OpenAI's, Anthropic's, Bedrock's and objects' tools are written alike."""
    assert as_signature(tool) == SIGNATURE


def test_declarations_are_tools_each() -> None:
    """Gemini's list of declarations is as many tools as it declares."""
    assert each([{"functionDeclarations": [ABOUT, ABOUT]}]) == [ABOUT, ABOUT]
    assert each({"tools": [ABOUT]}) == [ABOUT]
    assert each("a text") == ["a text"]


def forecast() -> None:
    """Say how the weather will be."""


def test_functions_and_texts_are_tools_too() -> None:
    """A Python function is written as its name and docstring."""
    assert as_json(forecast) == "forecast Say how the weather will be."
    assert as_signature("as it is") == "as it is"
    assert as_signature({"name": "now"}) == "type now = () => any;\n\n"


@pytest.mark.parametrize(
    ("tool", "hosted"),
    [
        ({"type": "web_search"}, True),
        ({"type": "web_search_20250305", "name": "web_search"}, True),
        ({"google_search": {}}, True),
        ({"type": "function", "function": ABOUT}, False),
        ({"type": "custom", **ABOUT}, False),
        ({**ABOUT, "input_schema": SCHEMA}, False),
        ({"toolSpec": ABOUT}, False),
        (forecast, False),
    ],
)
def test_tools_that_run_at_the_provider_lower_confidence(tool: object, hosted: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    """What a hosted tool brings in is billed, and the request does not show it."""
    assert is_hosted(tool) is hosted
    found = count("gpt-5", prompt="Hello", tools=[tool])
    assert found.confidence == ("low" if hosted else "medium")
    assert count("gpt-5", prompt="Hello").confidence == "high"


def test_endless_schemas_end() -> None:
    """A schema that holds itself is written to a depth, and no further."""
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    schema["properties"]["again"] = schema
    assert "object" in as_signature({"name": "deep", "parameters": schema})
    assert as_json({"name": "deep", "parameters": schema})


@pytest.mark.parametrize(
    ("tools", "billed"),
    # Recorded: what OpenAI billed for "What's the weather in Paris?" and a tool, less the message.
    [
        (
            [
                {
                    "type": "function",
                    "name": "get_weather",
                    "parameters": {"type": "object", "properties": {}},
                }
            ],
            23,
        )
    ],
)
def test_openai_bills_signatures(tools: list[object], billed: int) -> None:
    """An estimate of tools comes near to what OpenAI bills for them."""
    alone = count("gpt-5", prompt="What's the weather in Paris?").expected
    together = count("gpt-5", prompt="What's the weather in Paris?", tools=tools).expected
    assert abs(together - alone - billed) <= 4
