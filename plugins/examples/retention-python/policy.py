"""Which snapshots stay: the last N complete ones. A pure function of its arguments; it never sees a clock, an object or a store."""

from dataclasses import dataclass
from datetime import tzinfo
from typing import List, Tuple

from settings import Settings


@dataclass(frozen=True)
class Snapshot:
    """What the rule looks at of a snapshot."""

    taken: int  # seconds since 1970-01-01T00:00:00Z
    complete: bool = True  # every source is restorable from it
    pinned: bool = False  # never forgotten, whatever the rule says


def plan(now: int, zone: tzinfo, settings: Settings, snapshots: List[Snapshot]) -> List[Tuple[bool, str]]:
    """Whether to keep each snapshot, and why, in the order in which they came.

    `zone` is the business time zone, for rules that think in days; this one does not.

    A snapshot from the future of `now` stays and is not counted: one wrong clock must not push out the real last N.
    """
    newest_first = sorted(range(len(snapshots)), key=lambda at: (snapshots[at].taken, at), reverse=True)
    decisions = [(False, "older than the last complete ones to keep")] * len(snapshots)
    left = settings.keep
    for at in newest_first:
        snapshot = snapshots[at]
        if snapshot.taken > now:
            decisions[at] = (True, "taken in the future")
        elif snapshot.complete and left > 0:
            decisions[at] = (True, "one of the last complete ones")
            left -= 1
        elif snapshot.pinned:
            decisions[at] = (True, "pinned")
        elif not snapshot.complete and left > 0:
            # A failed run is evidence for as long as the history around it is there.
            decisions[at] = (True, "incomplete, not older than what is kept")
        elif not snapshot.complete:
            decisions[at] = (False, "incomplete, older than what is kept")
    return decisions
