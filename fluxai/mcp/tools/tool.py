"""What a tool of the MCP server is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import mcp_types as types
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.mcp.identity import Identity


class Arguments(BaseModel):
    """What a model sends. An unknown argument is an error, since it was meant to say something."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant_id: Annotated[
        str | None,
        Field(
            description="Leave this out: the tenant is that of the credential. Another one is refused."
        ),
    ] = None


class Result(BaseModel):
    """What a model gets back, in the shape that the tool's output schema shows."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)


def _exactly(value: object) -> object:
    """Read a JSON number as the digits that were sent; Python's parser has made it a float."""
    return repr(value) if isinstance(value, float) else value


#: An amount that a model sends, as a number or as text.
GivenAmount = Annotated[
    Decimal, BeforeValidator(_exactly, json_schema_input_type=float | str), Field(ge=0)
]
#: An amount that a model gets: text, so that no reader rounds it.
ShownAmount = Annotated[
    Decimal, PlainSerializer(lambda value: f"{value:f}", return_type=str, when_used="json")
]
UserId = Annotated[
    str | None,
    Field(description="Which user of the tenant; leave out to act as the credential says."),
]


@dataclass(frozen=True, kw_only=True)
class GovernorTool(Generic[ArgumentsT]):
    """One tool: what a model reads about it, and what it does.

    Args:
        name: What it is called by.
        title: For people.
        description: What a model reads, and finds it by.
        arguments: The type of its arguments.
        result: The type of its result.
        run: Does it, for an identity. Runs in a thread; a refusal by policy is a result.
        undo: Gives back what a result holds, when nobody waits for it any more.
        blocks: What of a result is shown as content of its own, such as pictures.
        scope: What an identity needs to see it at all.
        reads_only: It changes nothing.
        destructive: It takes something away.
        idempotent: Doing it twice is doing it once.
        open_world: It reaches a provider outside.
        waits: It waits for a provider, so that it runs in a thread whatever the store is. One that
            nobody waits for any more goes on to its end, and is settled.
    """

    name: str
    title: str
    description: str
    arguments: type[ArgumentsT]
    result: type[BaseModel]
    run: Callable[[Governor, Identity, ArgumentsT], BaseModel]
    undo: Callable[[Governor, BaseModel], None] | None = None
    blocks: Callable[[BaseModel], list[types.ContentBlock]] | None = None
    scope: str | None = None
    reads_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    waits: bool = False

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """The JSON schema of its arguments."""
        return self.arguments.model_json_schema()

    @cached_property
    def published(self) -> types.Tool:
        """The tool as `tools/list` shows it."""
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=self.input_schema,
            output_schema=self.result.model_json_schema(mode="serialization"),
            annotations=types.ToolAnnotations(
                title=self.title,
                read_only_hint=self.reads_only,
                destructive_hint=self.destructive,
                idempotent_hint=self.idempotent or self.reads_only,
                open_world_hint=self.open_world,
            ),
        )
