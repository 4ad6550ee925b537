// JSON Schemas as rows of a table: a row for each field, by its path, such as lines[].unit_price.amount.

const BOUNDS = {
  minimum: "at least", exclusiveMinimum: "above", maximum: "at most", exclusiveMaximum: "below",
  minLength: "characters: at least", maxLength: "characters: at most", minItems: "entries: at least",
  maxItems: "entries: at most", pattern: "pattern",
};

export function named(document, pointer) {
  return pointer.split("/").slice(1).reduce((part, name) => part[name.replaceAll("~1", "/").replaceAll("~0", "~")], document);
}

/** Follow references, and look through what may be null: what is left, and the names on the way. */
function resolved(document, schema) {
  let found = schema;
  const names = [];
  const above = {};
  for (;;) {
    const real = (found.anyOf ?? found.oneOf ?? found.allOf)?.filter((each) => each.type !== "null");
    const next = found.$ref ?? (real?.length === 1 ? real[0] : null);
    if (!next) break;
    const { $ref, anyOf, oneOf, allOf, ...own } = found;
    for (const [name, value] of Object.entries(own)) above[name] ??= value;
    if (typeof next === "string") {
      names.push(next.split("/").pop());
      found = named(document, next);
    } else found = next;
  }
  return { schema: { ...found, ...above, type: found.type ?? above.type }, names };
}

function mayBeNull(schema) {
  return (schema.anyOf ?? schema.oneOf ?? []).some((each) => each.type === "null") || [schema.type].flat().includes("null");
}

function type(document, given) {
  const { schema, names } = resolved(document, given);
  const parts = schema.anyOf ?? schema.oneOf;
  let said = parts ? parts.map((each) => type(document, each)).join(" or ") : [schema.type ?? "anything"].flat().join(" or ");
  if (schema.items || schema.prefixItems) said = `array of ${schema.items ? type(document, schema.items) : "values"}`;
  if (schema.type === "object" && names.length) said = `object ${names.at(-1)}`;
  if (schema.format) said += ` (${schema.format})`;
  return said + (mayBeNull(given) ? " or null" : "");
}

function about(document, given) {
  const { schema } = resolved(document, given);
  const item = schema.items ? resolved(document, schema.items).schema : {};
  const said = [];
  if (schema.description) said.push(schema.description);
  for (const values of [schema.enum, item.enum]) if (values) said.push(`One of ${values.map((each) => JSON.stringify(each)).join(", ")}.`);
  if ("const" in schema) said.push(`Always ${JSON.stringify(schema.const)}.`);
  if (schema.default !== undefined && schema.default !== null) said.push(`By default ${JSON.stringify(schema.default)}.`);
  const bounds = Object.entries(BOUNDS).filter(([name]) => name in schema).map(([name, word]) => `${word} ${schema[name]}`);
  if (bounds.length) said.push(`${bounds.join("; ")}.`.replace(/^./, (letter) => letter.toUpperCase()));
  return said.join(" ");
}

/** The fields of a schema: path, type, whether it is required, and what is said of it. */
export function fields(document, given, path = "", seen = []) {
  const { schema, names } = resolved(document, given);
  if (names.some((name) => seen.includes(name))) return []; // it contains itself
  const around = [...seen, ...names];
  if (schema.items) return fields(document, schema.items, `${path}[]`, around);
  const parts = schema.anyOf ?? schema.oneOf;
  if (parts && !schema.properties) return parts.flatMap((each) => fields(document, each, path, around));
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const own = path ? `${path}.${name}` : name;
    const required = (schema.required ?? []).includes(name);
    return [{ path: own, type: type(document, field), required, about: about(document, field) }, ...fields(document, field, own, around)];
  });
}
