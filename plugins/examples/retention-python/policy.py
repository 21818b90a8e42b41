"""Decides which snapshots to keep: the last N complete ones.

A pure function of its arguments; it never sees a clock, an object or a store.
"""

from dataclasses import dataclass
from datetime import tzinfo
from typing import List, Tuple

from settings import Settings


@dataclass(frozen=True)
class Snapshot:
    """The parts of a snapshot that the rule uses."""

    taken: int  # seconds since 1970-01-01T00:00:00Z
    complete: bool = True  # every source can be restored from it
    pinned: bool = False  # never forgotten, whatever the rule decides


def plan(now: int, zone: tzinfo, settings: Settings, snapshots: List[Snapshot]) -> List[Tuple[bool, str]]:
    """Decides for each snapshot whether to keep it, and why. The decisions have the order of the snapshots.

    `zone` is the business time zone, for rules that count days; this rule does not.

    A snapshot taken after `now` is kept and not counted: one wrong clock must not push out the real last N.
    """
    newest_first = sorted(range(len(snapshots)), key=lambda at: (snapshots[at].taken, at), reverse=True)
    decisions = [(False, "older than the complete snapshots to keep")] * len(snapshots)
    left = settings.keep
    for at in newest_first:
        snapshot = snapshots[at]
        if snapshot.taken > now:
            decisions[at] = (True, "taken in the future")
        elif snapshot.complete and left > 0:
            decisions[at] = (True, "one of the last complete snapshots")
            left -= 1
        elif snapshot.pinned:
            decisions[at] = (True, "pinned")
        elif not snapshot.complete and left > 0:
            # The record of a failed run is kept as long as the complete snapshots around it.
            decisions[at] = (True, "incomplete, not older than what is kept")
        elif not snapshot.complete:
            decisions[at] = (False, "incomplete, older than what is kept")
    return decisions
