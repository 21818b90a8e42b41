"""The business time zone as the host has it. `zoneinfo` looks for files when it is given a name, and a component has none."""

from io import BytesIO
from zoneinfo import ZoneInfo


class Unknown(LookupError):
    """One lowercase sentence for the operator."""


def zone(name: str, tzif: bytes) -> ZoneInfo:
    """The offsets that the host handed out, for `datetime.fromtimestamp(taken, zone)`."""
    if not tzif:
        raise Unknown(f"there are no rules of the time zone `{name}`")
    return ZoneInfo.from_file(BytesIO(tzif), key=name)
