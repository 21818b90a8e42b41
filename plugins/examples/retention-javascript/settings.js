// The settings: what they may be, and one sentence about what is wrong with them.

const NAME = "retention-javascript";

// The greatest number of snapshots that can be asked for, as in plugins/retention-last.
const KEEP_MAX = 2 ** 32 - 1;

// One a night makes this a month.
const KEEP_DEFAULT = 30;

export const SCHEMA = JSON.stringify(
  {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: NAME,
    type: "object",
    additionalProperties: false,
    properties: {
      keep: {
        description: "How many of the last complete snapshots to keep. 0 needs keep_nothing = true.",
        type: "integer",
        minimum: 0,
        maximum: KEEP_MAX,
        default: KEEP_DEFAULT,
      },
      keep_nothing: {
        description: "Says that keep = 0 is meant. Any other use is refused.",
        type: "boolean",
        default: false,
      },
    },
  },
  null,
  2,
);

/** One lowercase sentence for the operator. */
export class Wrong extends Error {
  constructor(what) {
    super(`${NAME} settings: ${what}`);
  }
}

/** Reads the JSON text that the host passes; no text at all means the defaults. */
export function parse(text) {
  let table;
  try {
    table = text.trim() === "" ? {} : JSON.parse(text);
  } catch {
    throw new Wrong("they are no JSON");
  }
  if (table === null || typeof table !== "object" || Array.isArray(table)) throw new Wrong("they are no table");
  for (const name of Object.keys(table)) {
    if (!["keep", "keep_nothing"].includes(name)) {
      throw new Wrong(`unknown field \`${name}\`, expected \`keep\` or \`keep_nothing\``);
    }
  }
  const { keep = KEEP_DEFAULT, keep_nothing: keepNothing = false } = table;
  if (!Number.isInteger(keep) || keep < 0 || keep > KEEP_MAX) {
    throw new Wrong(`\`keep\` must be a whole number from 0 to ${KEEP_MAX}`);
  }
  if (typeof keepNothing !== "boolean") throw new Wrong("`keep_nothing` must be true or false");
  if (keep === 0 && !keepNothing) throw new Wrong("`keep = 0` also needs `keep_nothing = true`");
  if (keep > 0 && keepNothing) throw new Wrong("`keep_nothing = true` also needs `keep = 0`");
  return { keep };
}
