// Checks AsyncAPI documents with AsyncAPI's own parser: one line for each thing that is wrong, and status 1 if any is.
//
//   node asyncapi.mjs FILE...

import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { Parser } from "@asyncapi/parser";

const WARNING = 1;
const parser = new Parser({ ruleset: { core: true, recommended: false } }); // validity, not taste
let wrong = 0;

for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await parser.parse(await readFile(file, "utf-8"));
  for (const { severity, code, path, message } of diagnostics) {
    if (severity > WARNING) continue;
    wrong += 1;
    console.log(`${basename(file)}: ${path.join("/")}: ${message} (${code})`);
  }
  if (!document && !diagnostics.length) throw new Error(`${file}: not parsed`);
}
process.exit(wrong ? 1 : 0);
