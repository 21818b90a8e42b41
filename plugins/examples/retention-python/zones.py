"""Time zones by their IANA names. `zoneinfo` reads files, and a component has none, so all of them are read while it is built:
of the package `tzdata` in the component, of the system where its tests run.
"""

from zoneinfo import ZoneInfo, available_timezones

_ZONES = {name: ZoneInfo(name) for name in available_timezones()}
if not _ZONES:
    raise RuntimeError("no time zone is here: build where requirements.txt is installed and its environment active")


class Unknown(LookupError):
    """One lowercase sentence for the operator."""


def zone(name: str) -> ZoneInfo:
    """The rules of the time zone, for `datetime.fromtimestamp(taken, zone)`."""
    if name not in _ZONES:
        raise Unknown(f"there are no rules of the time zone `{name}`")
    return _ZONES[name]
