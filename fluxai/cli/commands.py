"""`Commands`: a group whose help says of each command all of its first sentence."""

from __future__ import annotations

import click

#: More than any first sentence has; click would cut it at the width of the terminal.
_CHARACTERS_MAX = 200


class Commands(click.Group):
    """Lists its commands as they were added: the first ones to try first."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Return the names in the order in which the commands were added."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write each command with its sentence, wrapped instead of cut off."""
        rows = [
            (name, made.get_short_help_str(_CHARACTERS_MAX)) for name, made in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
