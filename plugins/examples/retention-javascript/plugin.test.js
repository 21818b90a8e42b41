import assert from "node:assert/strict";
import { test } from "node:test";
import { plan } from "./policy.js";
import { parse } from "./settings.js";

const DAY = 86_400n;
const NOW = 1_782_820_800n;

const daily = (days) =>
  Array.from({ length: days }, (_, ago) => ({ taken: NOW - BigInt(ago) * DAY - 3_600n, complete: true, pinned: false }));

test("the last complete snapshots are kept, whatever lies between them", () => {
  const snapshots = daily(10);
  snapshots[1].complete = false;
  snapshots[8].pinned = true;
  const kept = plan(NOW, "Europe/Paris", { keep: 3 }, snapshots).flatMap(({ keep }, at) => (keep ? [at] : []));
  assert.deepEqual(kept, [0, 1, 2, 3, 8]);
});

test("a snapshot taken in the future is kept and not counted", () => {
  const snapshots = [{ taken: NOW + DAY, complete: true, pinned: false }, ...daily(3)];
  const kept = plan(NOW, "Europe/Paris", { keep: 1 }, snapshots).map(({ keep }) => keep);
  assert.deepEqual(kept, [true, true, false, false]);
});

test("an invalid setting is refused with a sentence that names it", () => {
  assert.deepEqual(parse(""), { keep: 30 });
  for (const [text, part] of [
    ['{"kepe": 1}', "unknown field `kepe`"],
    ['{"keep": -1}', "whole number"],
    ['{"keep": 0}', "keep_nothing"],
    ["[]", "expected a table"],
  ]) {
    assert.throws(() => parse(text), (error) => error.message.includes(part), text);
  }
});
