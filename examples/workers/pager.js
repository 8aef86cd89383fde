// A channel in JavaScript: a worker of the channel "pager", which pages people by printing who is paged.
//
//   [channels.pager]              in the dispatcher's configuration
//   provider = "attached"
//
//   npm install
//   node pager.js [tcp://127.0.0.1:7712 [NAME]]
//
// It says who it is and what has become of what it had, and waits for more: see docs/protocol.md, "Channel workers".
// Ctrl-C gives its last results and detaches.
"use strict";

const { Request } = require("zeromq");

const [endpoint = "tcp://127.0.0.1:7712", worker = `pager-${process.pid}`] = process.argv.slice(2);
const WAIT_MS = 2_000;
let stopping = false;

// One attempt: no answer of it is a success, and what it throws is the failure.
async function page({ attempt, recipient, priority, title }) {
  const number = (recipient.contacts.other || {}).pager;
  if (!number) throw { error_class: "no_contact", message: "no number in contacts.other.pager" };
  console.log(`paged ${number} (${recipient.user_id}, ${priority}, attempt ${attempt}): ${title}`);
  return { detail: `paged ${number}` };
}

async function result({ token, delivery }) {
  if (stopping) return { token, error_class: "returned" }; // it was not begun: somebody else will
  try {
    return { token, ...(await page(delivery)) };
  } catch (error) {
    return { token, error_class: error.error_class || "transient", message: String(error.message || error) };
  }
}

// A REQ socket that got no answer is of no use: each question that failed is asked again by a new one.
let socket = null;
async function ask(request) {
  for (;;) {
    if (!socket) {
      socket = new Request({ linger: 0, receiveTimeout: WAIT_MS + 2_000 });
      socket.connect(endpoint);
    }
    try {
      await socket.send(JSON.stringify(request));
      const [bytes] = await socket.receive();
      const answer = JSON.parse(bytes.toString());
      if (answer.ok) return answer;
      throw new Error(`${answer.error.code}: ${answer.error.message}`);
    } catch (error) {
      console.error(error.message);
      socket.close();
      socket = null;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}

async function main() {
  let results = [];
  while (!stopping || results.length) {
    const limit = stopping ? 0 : 10;
    const call = { op: "channel.attach", channel: "pager", worker, limit, wait_ms: WAIT_MS, results };
    const { deliveries } = await ask(call); // and with it what became of the last ones has arrived
    results = await Promise.all(deliveries.map(result));
  }
  await ask({ op: "channel.detach", channel: "pager", worker });
  socket.close();
}

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => (stopping = true));
main();
