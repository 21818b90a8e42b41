// Builds the component: bundles all modules and embeds them with an interpreter. The component imports nothing from
// WASI, so it has no clock, no randomness and no network.

import { componentize } from "@bytecodealliance/componentize-js";
import { build } from "esbuild";
import { writeFile } from "node:fs/promises";
import { resolve } from "node:path";

const bundled = await build({
  entryPoints: ["plugin.js"],
  bundle: true,
  format: "esm",
  external: ["backup:*"],
  write: false,
});
const { component } = await componentize(bundled.outputFiles[0].text, {
  witPath: resolve("wit"),
  worldName: "retention",
  disableFeatures: ["random", "stdio", "clocks", "http", "fetch-event"],
});
await writeFile("retention-javascript.wasm", component);
console.log(`retention-javascript.wasm has ${component.length} bytes`);
