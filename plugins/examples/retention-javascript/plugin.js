// Keeps the last N complete snapshots: `plugins/retention-last` in JavaScript.
//
// `settings.js` reads the settings, `policy.js` decides, and this file translates between them and the world
// `retention`.

import { emit } from "backup:host/log@0.2.0";
import { plan as decide } from "./policy.js";
import { InvalidSettings, SCHEMA, parse } from "./settings.js";

export const retaining = {
  settingsSchema() {
    return SCHEMA;
  },

  plan(now, timeZone, settings, snapshots) {
    try {
      const decided = decide(now, timeZone, parse(settings), snapshots);
      const decisions = snapshots.map(({ id }, at) => ({
        id,
        verdict: decided[at].keep ? "keep" : "forget",
        reasons: [decided[at].reason],
      }));
      return { decisions, notes: [] };
    } catch (error) {
      // The thrown object becomes the error of the result, as the world defines it.
      if (error instanceof InvalidSettings) throw { tag: "denied", val: error.message };
      // Anything else traps, and a trap has no message.
      emit("error", `${error}: ${String(error.stack).split("\n")[0]}`, []);
      throw error;
    }
  },
};
