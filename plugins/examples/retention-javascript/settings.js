// The settings, their limits, and the messages for invalid ones.

const NAME = "retention-javascript";

// The largest value of keep, as in plugins/retention-last.
const KEEP_MAX = 2 ** 32 - 1;

// A month of nightly backups.
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
        description: "Confirms that keep = 0 is intended. Any other use is refused.",
        type: "boolean",
        default: false,
      },
    },
  },
  null,
  2,
);

/** One lowercase sentence for the operator. */
export class InvalidSettings extends Error {
  constructor(problem) {
    super(`${NAME} settings: ${problem}`);
  }
}

/** Reads the JSON text that the host passes. An empty text means the defaults. */
export function parse(text) {
  let table;
  try {
    table = text.trim() === "" ? {} : JSON.parse(text);
  } catch {
    throw new InvalidSettings("the text is not valid JSON");
  }
  if (table === null || typeof table !== "object" || Array.isArray(table)) {
    throw new InvalidSettings("expected a table");
  }
  for (const name of Object.keys(table)) {
    if (!["keep", "keep_nothing"].includes(name)) {
      throw new InvalidSettings(`unknown field \`${name}\`, expected \`keep\` or \`keep_nothing\``);
    }
  }
  const { keep = KEEP_DEFAULT, keep_nothing: keepNothing = false } = table;
  if (!Number.isInteger(keep) || keep < 0 || keep > KEEP_MAX) {
    throw new InvalidSettings(`\`keep\` must be a whole number from 0 to ${KEEP_MAX}`);
  }
  if (typeof keepNothing !== "boolean") throw new InvalidSettings("`keep_nothing` must be true or false");
  if (keep === 0 && !keepNothing) throw new InvalidSettings("`keep = 0` also needs `keep_nothing = true`");
  if (keep > 0 && keepNothing) throw new InvalidSettings("`keep_nothing = true` also needs `keep = 0`");
  return { keep };
}
