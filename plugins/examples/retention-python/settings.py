"""The settings, their limits, and the messages for invalid ones."""

import json
from dataclasses import dataclass

NAME = "retention-python"

# The largest value of keep, as in plugins/retention-last.
KEEP_MAX = 2**32 - 1

# A month of nightly backups.
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
                "description": "Confirms that keep = 0 is intended. Any other use is refused.",
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


class InvalidSettings(ValueError):
    """One lowercase sentence for the operator."""

    def __init__(self, what: str):
        super().__init__(f"{NAME} settings: {what}")


def parse(text: str) -> Settings:
    """Reads the JSON text that the host passes. An empty text means the defaults."""
    try:
        table = json.loads(text) if text.strip() else {}
    except ValueError:
        raise InvalidSettings("the text is not valid JSON") from None
    if not isinstance(table, dict):
        raise InvalidSettings("expected a table")
    for name in table:
        if name not in ("keep", "keep_nothing"):
            raise InvalidSettings(f"unknown field `{name}`, expected `keep` or `keep_nothing`")
    settings = Settings(**table)
    # A bool is an int in Python, but `keep = true` has no meaning.
    if type(settings.keep) is not int or not 0 <= settings.keep <= KEEP_MAX:
        raise InvalidSettings(f"`keep` must be a whole number from 0 to {KEEP_MAX}")
    if type(settings.keep_nothing) is not bool:
        raise InvalidSettings("`keep_nothing` must be true or false")
    if settings.keep == 0 and not settings.keep_nothing:
        raise InvalidSettings("`keep = 0` also needs `keep_nothing = true`")
    if settings.keep > 0 and settings.keep_nothing:
        raise InvalidSettings("`keep_nothing = true` also needs `keep = 0`")
    return settings
