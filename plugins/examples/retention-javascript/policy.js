// Decides which snapshots to keep: the last N complete ones. A pure function of its arguments; it never sees a clock,
// an object or a store.

/**
 * Decides for each snapshot whether to keep it, and why. The decisions have the order of the snapshots.
 *
 * Times are seconds since 1970-01-01T00:00:00Z, as BigInt. `timeZone` is the business time zone, an IANA name, for
 * rules that count days; this rule does not.
 *
 * A snapshot taken after `now` is kept and not counted: one wrong clock must not push out the real last N.
 */
export function plan(now, timeZone, settings, snapshots) {
  const newestFirst = snapshots.map((_, at) => at).sort((a, b) => {
    const [one, other] = [snapshots[a].taken, snapshots[b].taken];
    if (one === other) return b - a;
    return one < other ? 1 : -1;
  });
  const decisions = snapshots.map(() => ({ keep: false, reason: "older than the complete snapshots to keep" }));
  let left = settings.keep;
  for (const at of newestFirst) {
    const { taken, complete, pinned } = snapshots[at];
    if (taken > now) {
      decisions[at] = { keep: true, reason: "taken in the future" };
    } else if (complete && left > 0) {
      decisions[at] = { keep: true, reason: "one of the last complete snapshots" };
      left -= 1;
    } else if (pinned) {
      decisions[at] = { keep: true, reason: "pinned" };
    } else if (!complete && left > 0) {
      // The record of a failed run is kept as long as the complete snapshots around it.
      decisions[at] = { keep: true, reason: "incomplete, not older than what is kept" };
    } else if (!complete) {
      decisions[at] = { keep: false, reason: "incomplete, older than what is kept" };
    }
  }
  return decisions;
}
