"""Tests of the rule, the settings and the time zones in plain Python.

Run `python3 -m unittest` in this folder; it needs no other packages.
"""

import json
import unittest
import zoneinfo
from datetime import datetime
from pathlib import Path

from policy import Snapshot, plan
from settings import KEEP_MAX, SCHEMA, InvalidSettings, Settings, parse
from zones import UnknownZone, zone

NOW = 1_000
PARIS = zoneinfo.ZoneInfo("Europe/Paris")


def incomplete(taken):
    return Snapshot(taken, complete=False)


def pinned(taken):
    return Snapshot(taken, pinned=True)


class Policy(unittest.TestCase):
    def test_each_case_keeps_the_expected_snapshots(self):
        for case, keep, snapshots, expected in [
            ("an empty list", 3, [], []),
            ("fewer than N", 3, [Snapshot(1), Snapshot(2)], [1, 2]),
            ("more than N", 2, [Snapshot(1), Snapshot(2), Snapshot(3)], [2, 3]),
            ("newest first", 2, [Snapshot(3), Snapshot(2), Snapshot(1)], [3, 2]),
            ("incomplete ones are not counted", 1, [Snapshot(1), incomplete(2)], [1, 2]),
            ("an incomplete one older than the oldest kept", 1, [incomplete(1), Snapshot(2)], [2]),
            ("a pinned one beyond N", 1, [pinned(1), Snapshot(2), Snapshot(3)], [1, 3]),
            ("a pinned one counts among N", 2, [Snapshot(1), pinned(2), Snapshot(3)], [2, 3]),
            ("the future is kept and not counted", 1, [Snapshot(1), Snapshot(NOW), Snapshot(NOW + 1)], [NOW, NOW + 1]),
            ("keep = 0", 0, [pinned(1), Snapshot(2), incomplete(3)], [1]),
        ]:
            with self.subTest(case):
                decisions = plan(NOW, PARIS, Settings(keep, keep == 0), snapshots)
                self.assertEqual([s.taken for s, (kept, _) in zip(snapshots, decisions) if kept], expected)

    def test_of_two_snapshots_in_the_same_second_the_later_in_the_list_is_newer(self):
        decisions = plan(NOW, PARIS, Settings(1), [Snapshot(5), Snapshot(5)])
        self.assertEqual([keep for keep, _ in decisions], [False, True])


class Zones(unittest.TestCase):
    def test_a_day_begins_at_midnight_in_the_business_time_zone(self):
        # 23:30 UTC is 00:30 in winter and 01:30 in summer.
        files = [Path(folder, "Europe/Paris") for folder in zoneinfo.TZPATH]
        paris = zone("Europe/Paris", next(file for file in files if file.is_file()).read_bytes())
        for taken, local in [(1_767_223_800, "2026-01-01T00:30:00+01:00"), (1_782_862_200, "2026-07-01T01:30:00+02:00")]:
            self.assertEqual(datetime.fromtimestamp(taken, paris).isoformat(), local)

    def test_an_unknown_zone_is_named(self):
        with self.assertRaises(UnknownZone) as caught:
            zone("Europe/Atlantis", b"")
        self.assertIn("Europe/Atlantis", str(caught.exception))


class SettingsText(unittest.TestCase):
    def test_empty_settings_are_the_defaults_and_the_schema_has_the_same(self):
        for text in ["", " ", "{}"]:
            self.assertEqual(parse(text), Settings())
        documented = {name: field["default"] for name, field in json.loads(SCHEMA)["properties"].items()}
        self.assertEqual(documented, vars(Settings()))

    def test_invalid_settings_are_refused_with_one_sentence_that_names_the_setting(self):
        for text, part in [
            ('{"kep": 3}', "unknown field `kep`"),
            ('{"keep": -1}', "`keep` must be"),
            (json.dumps({"keep": KEEP_MAX + 1}), "`keep` must be"),
            ('{"keep": "3"}', "`keep` must be"),
            ('{"keep": true}', "`keep` must be"),
            ('{"keep": 0}', "also needs `keep_nothing = true`"),
            ('{"keep_nothing": true}', "also needs `keep = 0`"),
            ('{"keep_nothing": 1}', "must be true or false"),
            ("null", "expected a table"),
            ("{", "not valid JSON"),
        ]:
            with self.subTest(text), self.assertRaises(InvalidSettings) as caught:
                parse(text)
            self.assertIn(part, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
