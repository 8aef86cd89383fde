// Submits one notification in JSON and one in MessagePack, and prints both receipts.
//
//   npm install
//   node submit.js [tcp://127.0.0.1:7712 [SERVER.public OWN.public OWN.secret]]
"use strict";

const { readFileSync } = require("node:fs");
const { Dealer } = require("zeromq");
const { decode, encode } = require("@msgpack/msgpack");

const ENCODINGS = {
  json: {
    write: (document) => Buffer.from(JSON.stringify(document)),
    read: (bytes) => JSON.parse(bytes.toString()),
  },
  msgpack: {
    write: (document) => Buffer.from(encode(document)),
    read: (bytes) => decode(bytes),
  },
};

async function submit(socket, encoding, notifications) {
  const { write, read } = ENCODINGS[encoding];
  await socket.send(["", write({ op: "submit", notifications })]); // a DEALER sends the empty delimiter itself
  const [, receipt] = await socket.receive();
  return read(receipt);
}

async function main() {
  const [endpoint = "tcp://127.0.0.1:7712", ...files] = process.argv.slice(2);
  const [curveServerKey, curvePublicKey, curveSecretKey] = files.map((file) => readFileSync(file, "utf8").trim());
  const keys = files.length ? { curveServerKey, curvePublicKey, curveSecretKey } : {};
  const socket = new Dealer({ linger: 0, receiveTimeout: 10_000, ...keys });
  socket.connect(endpoint);
  let good = true;
  for (const encoding of Object.keys(ENCODINGS)) {
    const receipt = await submit(socket, encoding, [
      { user_id: "user-1", title: "Hello from Node", idempotency_key: `node-${encoding}` },
    ]);
    console.log(JSON.stringify(receipt));
    good = good && receipt.ok && receipt.rejected.length === 0;
  }
  socket.close();
  return good ? 0 : 1;
}

main().then(
  (code) => process.exit(code),
  (error) => {
    console.error(error.message);
    process.exit(1);
  },
);
