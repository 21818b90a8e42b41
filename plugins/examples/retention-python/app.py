"""Keeps the last N complete snapshots: `plugins/retention-last` in Python.

`settings.py` reads the settings, `zones.py` the time zone, `policy.py` decides, and this file translates between them
and the world `retention`. It calls only `log` and `business-zone` of the host, so its component imports nothing that
needs a grant.
"""

from typing import List
from zoneinfo import ZoneInfo

import policy
import settings
import zones
from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import retaining
from wit_world.imports import business_zone, log
from wit_world.imports.types import Error_Denied


class Retaining(exports.Retaining):
    def settings_schema(self) -> str:
        return settings.SCHEMA

    def plan(self, now: int, time_zone: str, settings_json: str, snapshots: List[retaining.Snapshot]):
        try:
            return decide(now, zones.zone(time_zone, business_zone.tzif()), settings.parse(settings_json), snapshots)
        except (settings.InvalidSettings, zones.UnknownZone) as error:
            raise Err(Error_Denied(str(error))) from None
        except Exception as error:
            # An exception leaves the component as a trap, and a trap has no message. The module `traceback` would
            # search for the sources, which a component does not have.
            at = error.__traceback__
            while at.tb_next:
                at = at.tb_next
            place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
            log.emit(log.Level.ERROR, f"{type(error).__name__}: {error}, at {place}", [])
            raise


def decide(
    now: int, zone: ZoneInfo, parsed: settings.Settings, snapshots: List[retaining.Snapshot]
) -> retaining.RetentionPlan:
    inputs = [policy.Snapshot(s.taken, s.complete, s.pinned) for s in snapshots]
    decided = zip(snapshots, policy.plan(now, zone, parsed, inputs))
    decisions = [
        retaining.Decision(s.id, retaining.Verdict.KEEP if keep else retaining.Verdict.FORGET, [reason])
        for s, (keep, reason) in decided
    ]
    return retaining.RetentionPlan(decisions, [])
