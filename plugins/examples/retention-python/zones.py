"""The business time zone, from the host's rules. `zoneinfo` looks up a name in files, and a component has none."""

from io import BytesIO
from zoneinfo import ZoneInfo


class UnknownZone(LookupError):
    """One lowercase sentence for the operator."""


def zone(name: str, tzif: bytes) -> ZoneInfo:
    """The time zone from the host's TZif data, for `datetime.fromtimestamp(taken, zone)`."""
    if not tzif:
        raise UnknownZone(f"unknown time zone `{name}`")
    return ZoneInfo.from_file(BytesIO(tzif), key=name)
