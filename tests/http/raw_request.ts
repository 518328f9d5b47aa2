/** Requests written by hand, for what no well-behaved client sends. */

import { type Answer, DOOR_TOKEN, type TestDoor } from "../support/door.ts";

/**
 * Sends a request of the client with the token, whose body need not be whole, and leaves the connection open. `token`: another one,
 * or `null` where a header brings it.
 */
export async function sendRaw(
  { port }: Pick<TestDoor, "port">,
  request: string,
  headers: readonly string[],
  body = "",
  token: string | null = DOOR_TOKEN,
): Promise<Deno.TcpConn> {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const authorization = token === null ? [] : [`authorization: Bearer ${token}`];
  const lines = [`${request} HTTP/1.1`, "host: snapmark", ...authorization, ...headers];
  const bytes = new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n${body}`);
  for (let sent = 0; sent < bytes.length;) sent += await connection.write(bytes.subarray(sent));
  return connection;
}

/** How long an answer may take. */
const ANSWER_MS_MAX = 30_000;

/**
 * Sends a request that need not be whole, and reads its answer; `cutOff` ends the request where its text ends. Fails when none has come
 * in time.
 */
export async function callRaw(
  door: Pick<TestDoor, "port">,
  request: string,
  headers: readonly string[],
  body: string,
  { cutOff = false, token = DOOR_TOKEN as string | null } = {},
): Promise<Answer> {
  using connection = await sendRaw(door, request, headers, body, token);
  if (cutOff) await connection.closeWrite();
  const timer = setTimeout(() => connection.close(), ANSWER_MS_MAX);
  try {
    return toAnswer(await readWhole(connection));
  } finally {
    clearTimeout(timer);
  }
}

async function readWhole(connection: Deno.TcpConn): Promise<string> {
  let text = "";
  const chunk = new Uint8Array(16_384);
  // The answer is short and states its length.
  while (!isWhole(text)) {
    const length = await connection.read(chunk);
    if (length === null) break;
    text += new TextDecoder().decode(chunk.subarray(0, length));
  }
  return text;
}

function toAnswer(text: string): Answer {
  const [head, answered] = text.split("\r\n\r\n");
  const [status, ...lines] = head.split("\r\n");
  return {
    status: Number(status.split(" ")[1]),
    headers: new Headers(lines.map((line) => line.split(": ", 2) as [string, string])),
    body: JSON.parse(answered),
  };
}

function isWhole(text: string): boolean {
  const end = text.indexOf("\r\n\r\n");
  const length = /^content-length: (\d+)/im.exec(text)?.[1];
  return end >= 0 && length !== undefined && text.length >= end + 4 + Number(length);
}
