"""The JSON Schemas in docs/protocol.md, made from the models: `--write` puts them there, `--check` says if they differ.

A line `<!-- schema: NAME -->` stands above each block. Every schema has exactly one.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from aiagentchat.agents.messages import MOST_HOPS
from aiagentchat.space.content import (
    CARD,
    CHAIN,
    CURSOR,
    HOPS,
    IN_REPLY_TO,
    LEASE,
    PEOPLE,
    ROSTER,
    Card,
    Chain,
    Cursor,
    InReplyTo,
    Lease,
    PeopleList,
    Roster,
    SpaceChild,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MODELS: dict[str, type[BaseModel]] = {
    CARD: Card,
    ROSTER: Roster,
    LEASE: Lease,
    PEOPLE: PeopleList,
    "m.space.child": SpaceChild,
    IN_REPLY_TO: InReplyTo,
    CHAIN: Chain,
    CURSOR: Cursor,
}
Hops = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=MOST_HOPS,
        description="Field `io.aiagentchat.hops` of a message: how many agents' answers led to it. Absent: 0.",
    ),
]
BLOCK = re.compile(r"^<!-- schema: (\S+) -->\n```json\n.*?^```$", re.MULTILINE | re.DOTALL)


class _Untitled(GenerateJsonSchema):
    """Without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def render_schemas() -> dict[str, dict[str, Any]]:
    """Return event type or field to its schema."""
    schemas = {name: model.model_json_schema(schema_generator=_Untitled) for name, model in MODELS.items()}
    schemas[HOPS] = TypeAdapter(Hops).json_schema()
    return {name: {"$schema": DIALECT} | schema | {"title": name} for name, schema in schemas.items()}


def with_schemas(page: str) -> str:
    """Return the page with every schema as the models have it.

    Raises:
        ValueError: a schema stands nowhere, twice, or is none of ours.
    """
    schemas = render_schemas()
    found = BLOCK.findall(page)
    if sorted(found) != sorted(schemas):
        raise ValueError(f"the page has schemas for {sorted(found)}, and needs {sorted(schemas)}")

    def block(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- schema: {name} -->\n```json\n{json.dumps(schemas[name], indent=2)}\n```"

    return BLOCK.sub(block, page)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="put the schemas into the page")
    action.add_argument("--check", action="store_true", help="fail when page and models differ")
    options = parser.parse_args(arguments)
    present = PAGE.read_text()
    wanted = with_schemas(present)
    if options.write:
        PAGE.write_text(wanted)
    elif present != wanted:
        sys.exit(f"{PAGE.name} and the models differ: run python scripts/protocol_schemas.py --write")


if __name__ == "__main__":
    main(sys.argv[1:])
