// The messages: an index first, then one message or one queue at a time, by the address behind the #.

import { fields, named } from "./schema.js";

const place = document.getElementById("page");
const search = document.querySelector("input[type=search]");
const title = document.body.dataset.title;
let api;

function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) element.setAttribute(key, value);
  element.append(...children.flat().filter((each) => each !== null && each !== undefined));
  return element;
}

const link = (kind, name, text = name) => h("a", { href: `#/${kind}/${encodeURIComponent(name)}` }, text);
const commas = (parts) => parts.flatMap((part, number) => (number ? [", ", part] : [part]));
const code = (text) => h("code", {}, text);

/** The little Markdown that the documents have: headings, lists, indented code, `code` and **bold**. */
function markdown(text) {
  const inline = (line) => line.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (/^`.+`$/.test(part)) return code(part.slice(1, -1));
    return /^\*\*.+\*\*$/.test(part) ? h("strong", {}, part.slice(2, -2)) : part;
  });
  return text.split(/\n{2,}/).map((block) => {
    if (block.startsWith("### ")) return h("h2", {}, block.slice(4));
    if (block.startsWith("    ")) return h("pre", { tabindex: 0 }, block.replace(/^ {4}/gm, ""));
    if (block.startsWith("- ")) return h("ul", {}, block.split(/\n?^- /m).filter(Boolean).map((line) => h("li", {}, inline(line))));
    return h("p", {}, inline(block));
  });
}

// -- what the document says ---------------------------------------------------------------------------------------

const last = (reference) => reference.$ref.split("/").pop();
const tag = (part) => part.tags?.[0]?.name ?? "";

function operations(action, message) {
  return Object.values(api.operations).filter((each) => each.action === action && each.messages.some((one) => last(one) === message));
}

const services = (action, message) => [...new Set(operations(action, message).map(tag))];
const isLane = (channel) => channel.bindings.amqp.is === "queue";

/** What an index shows, and what is searched in: messages by their kind, then queues. */
function entries() {
  const messages = Object.entries(api.components.messages).map(([name, message]) => {
    const read = services("receive", name);
    const words = fields(api, message.payload).map((field) => field.path);
    return {
      kind: "message", name, group: { event: "Events", command: "Commands" }[tag(message)] ?? "Dead letters",
      summary: message.summary, flow: `${services("send", name).join(", ") || "a shop"} → ${read.join(", ") || "whoever wants it"}`,
      words: [message.title, ...words],
    };
  });
  const queues = Object.entries(api.channels).filter(([, channel]) => isLane(channel)).map(([name, channel]) => ({
    kind: "channel", name, group: name.endsWith(".dlq") ? "Queues of dead letters" : "Lanes",
    summary: channel.description, flow: `queue ${channel.address}`, words: Object.keys(channel.messages),
  }));
  return [...messages, ...queues];
}

// -- what is shown ------------------------------------------------------------------------------------------------

function index() {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = entries().filter((each) => {
    const text = [each.name, each.summary, each.flow, ...each.words].join(" ").toLowerCase();
    return wanted.every((word) => text.includes(word));
  });
  const groups = ["Events", "Commands", "Lanes", "Dead letters", "Queues of dead letters"];
  return [
    h("h1", {}, title),
    h("p", {}, `AsyncAPI ${api.asyncapi}, version ${api.info.version}. `, h("a", { href: "#/guide" }, "How to read events, send commands, and what happens to a message that fails")),
    h("p", { role: "status" }, wanted.length ? `${found.length} found.` : ""),
    ...groups.map((group) => [group, found.filter((each) => each.group === group)]).filter(([, some]) => some.length)
      .map(([group, some]) => h("section", {}, h("h2", {}, group), h("ul", { class: "index" }, some.map((each) =>
        h("li", {}, link(each.kind, each.name), h("span", { class: "flow" }, each.flow), h("span", { class: "summary" }, each.summary)))))),
  ];
}

function table(heads, rows) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": heads.join(", ") }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))));
}

function ofFields(schema) {
  const rows = fields(api, schema).map((field) => [
    code(field.path), field.type, h("span", { class: field.required ? "required" : "optional" }, field.required ? "required" : "optional"), field.about,
  ]);
  return rows.length ? table(["Field", "Type", "Needed", "About"], rows) : h("p", {}, schema.description ?? "Anything.");
}

function pairs(entries) {
  return h("dl", {}, entries.filter(([, value]) => value.length).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

const example = (text) => h("pre", { tabindex: 0 }, JSON.stringify(text, null, 2));

function message(name) {
  const found = api.components.messages[name];
  if (!found) return missing(name);
  const sent = Object.values(api.channels).find((channel) => !isLane(channel) && channel.messages[name]);
  const lanes = operations("receive", name).map((each) => link("channel", last(each.channel)));
  const [given] = found.examples ?? [];
  return [
    h("h1", {}, name),
    h("p", {}, `${found.title}, ${tag(found)}. ${found.summary}`),
    ...markdown(found.description ?? ""),
    pairs([
      ["Exchange", sent ? [code(sent.bindings.amqp.exchange.name)] : []], ["Routing key", sent ? [code(sent.address)] : []],
      ["Lanes", commas(lanes)], ["Content type", [found.contentType ?? ""].filter(Boolean)],
    ]),
    h("h2", {}, "Body"), ofFields(found.payload),
    ...(given ? [h("h2", {}, "Example"), example(given.payload)] : []),
    h("h2", {}, "Properties and headers"), ofFields(found.headers),
    ...(given ? [h("h2", {}, "Example of them"), example(given.headers)] : []),
  ];
}

function channel(name) {
  const found = api.channels[name];
  if (!found) return missing(name);
  const reading = Object.values(api.operations).filter((each) => last(each.channel) === name);
  const { queue } = found.bindings.amqp;
  return [
    h("h1", {}, name),
    h("p", {}, found.description.replaceAll("`", "")),
    pairs([["Queue", [code(queue.name)]], ["Read by", [reading.filter((each) => each.action === "receive").map(tag).join(", ")].filter(Boolean)]]),
    h("h2", {}, "Messages"),
    h("ul", { class: "index" }, Object.keys(found.messages).map((key) => {
      const start = `- \`${key}\`: `;
      const done = reading.flatMap((each) => each.description?.split("\n") ?? []).find((line) => line.startsWith(start))?.slice(start.length);
      return h("li", {}, link("message", key), h("span", { class: "summary" }, done ?? api.components.messages[key].summary));
    })),
    h("h2", {}, "Arguments"),
    table(["Argument", "Value"], Object.entries({ durable: queue.durable, ...queue["x-arguments"] }).map(([key, value]) => [code(key), String(value)])),
  ];
}

const missing = (name) => [h("h1", {}, "Not there"), h("p", {}, `Nothing here is called ${name}. `, h("a", { href: "#/" }, "All messages"))];

function show(focus) {
  const [, kind, name] = location.hash.match(/^#\/(\w+)\/?(.*)$/) ?? [];
  const views = { message, channel, guide: () => [h("h1", {}, "Guide"), ...markdown(api.info.description)] };
  place.replaceChildren(...(views[kind] ?? index)(decodeURIComponent(name ?? "")));
  const heading = place.querySelector("h1").textContent;
  document.title = heading === title ? title : `${heading} · ${title}`;
  if (focus) {
    place.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function listen() {
  addEventListener("hashchange", () => (location.hash === "#page" ? null : show(true)));
  search.addEventListener("input", () => {
    if (/^#\/\w/.test(location.hash)) history.pushState(null, "", "#/");
    show(false);
  });
  search.form.addEventListener("submit", (event) => {
    event.preventDefault();
    place.querySelector(".index a")?.click();
  });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== search) {
      event.preventDefault();
      search.select();
    }
  });
}

try {
  const address = document.body.dataset.document;
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address} answers ${answer.status}`);
  api = await answer.json();
  listen();
  show(false);
} catch (error) {
  place.replaceChildren(h("p", { class: "waiting" }, `The messages cannot be shown: ${error.message}. Load the page again.`));
}
