// Another team's consumer in another language: reads confirmed orders from a queue of its own, and holds each against
// the published schema. Prints a JSON line for each; ends with status 1 at the first that does not fit.
//
//   npm ci                                      (here, once)
//   AMQP_URL=amqp://newsletter:…@host/ node consume.mjs QUEUE SCHEMA [NUMBER]
//
// It ends after NUMBER orders; without one it goes on.

import { readFile } from "node:fs/promises";
import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import amqp from "amqplib";

const [queue, schema, number] = process.argv.slice(2);
const address = process.env.AMQP_URL;
if (!queue || !schema || !address) fail("usage: AMQP_URL=amqp://USER:PASSWORD@HOST:PORT/ node consume.mjs QUEUE SCHEMA [NUMBER]");
const ajv = new Ajv({ allErrors: true });
addFormats(ajv);
const fits = ajv.compile(JSON.parse(await readFile(schema, "utf-8").catch((error) => fail(error.message))));

const connection = await amqp.connect(address).catch((error) => fail(`AMQP_URL: ${error.message}`));
const channel = await connection.createChannel();
await channel.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "quorum" } });
await channel.bindQueue(queue, "orders", "order.confirmed.v1");
console.error(`${queue} is bound`);

await channel.prefetch(10);
let seen = 0;
await channel.consume(queue, (message) => {
  const { messageId, type } = message.properties;
  const body = JSON.parse(message.content);
  if (!fits(body)) {
    console.error(`${type} ${messageId}: ${ajv.errorsText(fits.errors, { dataVar: "order" })}`);
    process.exit(1);
  }
  console.log(JSON.stringify({ message_id: messageId, type, order_id: body.order_id, total: body.total.amount }));
  channel.ack(message);
  seen += 1;
  if (seen === Number(number)) connection.close();
});

function fail(why) {
  console.error(why);
  process.exit(2);
}
