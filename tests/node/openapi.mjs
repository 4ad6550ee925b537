// Checks OpenAPI documents by Redocly's recommended rules: one line for each thing that is wrong, status 1 if any is.
//
//   node openapi.mjs FILE...

import { basename } from "node:path";
import { createConfig, lint } from "@redocly/openapi-core";

const config = await createConfig({ extends: ["recommended-strict"] }); // its warnings are errors
let wrong = 0;

for (const file of process.argv.slice(2)) {
  for (const { ruleId, message, location } of await lint({ ref: file, config })) {
    wrong += 1;
    console.log(`${basename(file)}: ${location[0]?.pointer}: ${message} (${ruleId})`);
  }
}
process.exit(wrong ? 1 : 0);
