"""The settings: what they may be, and one sentence about what is wrong with them."""

import json
from dataclasses import dataclass

NAME = "retention-python"

# The greatest number of snapshots that can be asked for, as in plugins/retention-last.
KEEP_MAX = 2**32 - 1

# One a night makes this a month.
KEEP_DEFAULT = 30

SCHEMA = json.dumps(
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": NAME,
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "keep": {
                "description": "How many of the last complete snapshots to keep. 0 needs keep_nothing = true.",
                "type": "integer",
                "minimum": 0,
                "maximum": KEEP_MAX,
                "default": KEEP_DEFAULT,
            },
            "keep_nothing": {
                "description": "Says that keep = 0 is meant. Any other use is refused.",
                "type": "boolean",
                "default": False,
            },
        },
    },
    indent=2,
)


@dataclass(frozen=True)
class Settings:
    """The `settings` of `[plugins.retention]`."""

    keep: int = KEEP_DEFAULT
    keep_nothing: bool = False


class Wrong(ValueError):
    """One lowercase sentence for the operator."""

    def __init__(self, what: str):
        super().__init__(f"{NAME} settings: {what}")


def parse(text: str) -> Settings:
    """Reads the JSON text that the host passes; no text at all means the defaults."""
    try:
        table = json.loads(text) if text.strip() else {}
    except ValueError:
        raise Wrong("they are no JSON") from None
    if not isinstance(table, dict):
        raise Wrong("they are no table")
    for name in table:
        if name not in ("keep", "keep_nothing"):
            raise Wrong(f"unknown field `{name}`, expected `keep` or `keep_nothing`")
    settings = Settings(**table)
    # A bool is an int in Python, and `keep = true` means nothing.
    if type(settings.keep) is not int or not 0 <= settings.keep <= KEEP_MAX:
        raise Wrong(f"`keep` must be a whole number from 0 to {KEEP_MAX}")
    if type(settings.keep_nothing) is not bool:
        raise Wrong("`keep_nothing` must be true or false")
    if settings.keep == 0 and not settings.keep_nothing:
        raise Wrong("`keep = 0` also needs `keep_nothing = true`")
    if settings.keep > 0 and settings.keep_nothing:
        raise Wrong("`keep_nothing = true` also needs `keep = 0`")
    return settings
