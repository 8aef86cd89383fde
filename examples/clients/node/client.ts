// A client of the dispatcher in TypeScript, with npm's zeromq.
//
//   npm install && npx tsc
//   node client.js submit ada order-17-shipped "Order shipped"
//
// Node.js 22.18 and newer take client.ts as it is. The command line is explained in ../README.md, the protocol in
// docs/protocol.md.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Dealer, Push, Subscriber } from "zeromq";

const REFUSED = 1, USAGE = 2, LATER = 3; // exit codes
const PAGE = 500, PAUSE_MS = 100;

const options = {
  "submit": "tcp://127.0.0.1:7712",
  "ingest": "tcp://127.0.0.1:7711",
  "stream": "tcp://127.0.0.1:7713",
  "timeout": "30", // seconds
  "silence": "6",
  "after": "0",
  "count": "Infinity",
  "server-key": "", // files
  "public-key": "",
  "secret-key": "",
};

function isOption(name: string): name is keyof typeof options {
  return Object.hasOwn(options, name);
}

interface Refusal { code: string; message: string; retry_after_ms?: number }
interface Answer { ok: boolean; seq?: number; error?: Refusal }
interface Receipt extends Answer {
  ids: (string | null)[];
  duplicate: { index: number; mismatch: boolean }[];
  rejected: { index: number; error: Refusal }[];
}
interface Status extends Answer {
  id: string;
  deliveries: { channel: string; outcome: string; attempts: number; reason: string | null }[];
}
interface Item { cursor: number; title: string | null }
interface Page extends Answer { items: Item[]; next: number | null }

/** What ends the program, with its exit code. */
class Failure extends Error {
  readonly exitCode: number;

  constructor(exitCode: number, message: string) {
    super(message);
    this.exitCode = exitCode;
  }
}

function milliseconds(seconds: string): number {
  return Number(seconds) * 1000;
}

function keys(): { curveServerKey?: string; curvePublicKey?: string; curveSecretKey?: string } {
  if (!options["server-key"]) return {};
  const key = (path: string): string => {
    const text = readFileSync(path, "utf8").trim();
    if (text.length !== 40) throw new Failure(USAGE, `${path}: no key of 40 characters`);
    return text;
  };
  return {
    curveServerKey: key(options["server-key"]),
    curvePublicKey: key(options["public-key"]),
    curveSecretKey: key(options["secret-key"]),
  };
}

function isTimeout(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "EAGAIN";
}

/** The JSON object in the last part of the next message; undefined if none comes in time, or what comes is none. */
async function receiveDocument<T>(socket: Dealer | Subscriber, waitMs: number): Promise<T | undefined> {
  try {
    socket.receiveTimeout = Math.max(0, waitMs);
    const parts: Buffer[] = await socket.receive();
    const document: unknown = JSON.parse(String(parts.at(-1)));
    return document !== null && typeof document === "object" ? document as T : undefined;
  } catch (error) {
    if (error instanceof SyntaxError || isTimeout(error)) return undefined;
    throw error;
  }
}

/** Requests with answers, on one DEALER. */
class Requests {
  #socket = new Dealer({ linger: 0, sendTimeout: 0, ...keys() });
  #seq = 0;

  constructor() {
    this.#socket.connect(options.submit);
  }

  /** Sends a request, and the same again after silence, `unavailable` and `overloaded`, until the timeout: what was
   * taken the first time comes back as a duplicate. */
  async ask<T extends Answer>(request: { op: string } & Record<string, unknown>): Promise<T> {
    const seq = ++this.#seq;
    const deadline = performance.now() + milliseconds(options.timeout);
    let error = `no answer from ${options.submit} within ${options.timeout} s; is it there, and are the keys right?`;
    while (performance.now() < deadline) {
      await this.#send({ ...request, seq });
      const answer = await this.#answer<T>(seq, Math.min(performance.now() + milliseconds(options.silence), deadline));
      if (answer?.ok) return answer;
      if (!answer?.error) continue;
      const { code, message, retry_after_ms = PAUSE_MS } = answer.error;
      error = `${code}: ${message}`;
      if (code !== "unavailable" && code !== "overloaded") throw new Failure(REFUSED, error);
      if (retry_after_ms > deadline - performance.now()) break;
      await sleep(retry_after_ms);
    }
    throw new Failure(LATER, error);
  }

  /** Where it cannot be sent there will be no answer either. */
  async #send(request: object): Promise<void> {
    try {
      await this.#socket.send(["", JSON.stringify(request)]); // a DEALER sends the empty delimiter itself
    } catch (error) {
      if (!isTimeout(error)) throw error;
    }
  }

  /** What belongs to an earlier request is dropped. The answer to a request that could not be read has no `seq`. */
  async #answer<T extends Answer>(seq: number, deadline: number): Promise<T | undefined> {
    do {
      const answer = await receiveDocument<T>(this.#socket, deadline - performance.now());
      if (answer && "ok" in answer && (answer.seq ?? seq) === seq) return answer;
    } while (performance.now() < deadline);
    return undefined;
  }

  close(): void {
    this.#socket.close();
  }
}

async function submit(requests: Requests, user: string, pairs: string[]): Promise<number> {
  const notifications = [];
  for (let at = 0; at < pairs.length; at += 2)
    notifications.push({ user_id: user, idempotency_key: pairs[at], title: pairs[at + 1] });
  const receipt = await requests.ask<Receipt>({ op: "submit", notifications });
  const duplicates = new Map(receipt.duplicate.map(({ index, mismatch }) => [index, mismatch ? "mismatch" : "duplicate"]));
  const rejections = new Map(receipt.rejected.map(({ index, error }) => [index, `${error.code}: ${error.message}`]));
  for (const [index, { idempotency_key: key }] of notifications.entries()) {
    const rejection = rejections.get(index);
    console.log(rejection ? `rejected ${key} ${rejection}` : `${duplicates.get(index) ?? "accepted"} ${key} ${receipt.ids[index]}`);
  }
  return receipt.rejected.length ? REFUSED : 0;
}

async function send(user: string, titles: string[]): Promise<number> {
  const timeoutMs = milliseconds(options.timeout);
  // sending waits for a connection, and ending until all is sent
  const socket = new Push({ immediate: true, sendTimeout: timeoutMs, linger: timeoutMs, ...keys() });
  try {
    socket.connect(options.ingest);
    await socket.send(JSON.stringify(titles.map((title) => ({ user_id: user, title }))));
    console.log(`sent ${titles.length}`);
    return 0;
  } catch (error) {
    if (!isTimeout(error)) throw error;
    throw new Failure(LATER, `no connection to ${options.ingest} within ${options.timeout} s; is it there, and are the keys right?`);
  } finally {
    socket.close();
  }
}

async function status(requests: Requests, which: Record<string, unknown>): Promise<number> {
  const answer = await requests.ask<Status>({ op: "status", ...which });
  console.log(`id ${answer.id}`);
  for (const { channel, outcome, attempts, reason } of answer.deliveries)
    console.log(`${channel} ${outcome} ${attempts} ${reason ?? "-"}`);
  return 0;
}

/** The user's items after a cursor, each once and in order. The stream is a hint, the inbox is the truth: it is read
 * at the start, at a gap, and after silence. */
async function* items(requests: Requests, user: string, after: number): AsyncGenerator<Item> {
  const stream = new Subscriber({ linger: 0, ...keys() });
  try {
    stream.subscribe(`inapp.${user}\0`); // the NUL byte belongs to the topic
    stream.connect(options.stream);
    let item: Item | undefined;
    for (;;) {
      if (!item || item.cursor > after + 1)
        for (let next: number | null = after; next !== null;) {
          const page: Page = await requests.ask<Page>({ op: "inbox.list", user_id: user, cursor: next, limit: PAGE });
          for (const each of page.items) {
            after = each.cursor;
            yield each;
          }
          next = page.next;
        }
      else if (item.cursor === after + 1) {
        after = item.cursor;
        yield item;
      }
      item = await receiveDocument<Item>(stream, milliseconds(options.silence));
    }
  } finally {
    stream.close();
  }
}

async function follow(requests: Requests, user: string): Promise<number> {
  let left = Number(options.count);
  for await (const { cursor, title } of items(requests, user, Number(options.after))) {
    console.log(`${cursor} ${JSON.stringify(title)}`);
    if (--left <= 0) break;
  }
  return 0;
}

function usage(): number {
  console.error(
    "usage: client [OPTION VALUE]... submit USER KEY TITLE [KEY TITLE]... | send USER TITLE..."
      + " | status ID | status USER KEY | follow USER",
  );
  return USAGE;
}

async function run(requests: Requests, command: string | undefined, args: string[]): Promise<number> {
  const [first = "", ...others] = args;
  if (command === "submit" && args.length >= 3 && args.length % 2 === 1) return submit(requests, first, others);
  if (command === "send" && args.length >= 2) return send(first, others);
  if (command === "status" && args.length === 1) return status(requests, { id: first });
  if (command === "status" && args.length === 2) return status(requests, { user_id: first, idempotency_key: others[0] });
  if (command === "follow" && args.length === 1) return follow(requests, first);
  return usage();
}

async function main(args: string[]): Promise<number> {
  while (args[0]?.startsWith("--")) {
    const [option = "", value] = args.splice(0, 2);
    const name = option.slice(2);
    if (value === undefined || !isOption(name)) return usage();
    options[name] = value;
  }
  const requests = new Requests();
  try {
    return await run(requests, args[0], args.slice(1));
  } finally {
    requests.close();
  }
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(`error: ${(error as Error).message}`);
  process.exitCode = error instanceof Failure ? error.exitCode : USAGE;
}
