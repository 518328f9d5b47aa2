/**
 * Secrets stay where they belong: in the answer that hands one out, and nowhere else.
 *
 * A whole server is used at its most talkative, rightly and wrongly; then everything that it has said or stored is searched.
 */

import { assertEquals } from "@std/assert";
import { createTestDatabase } from "../support/database.ts";
import { runTask, startServerProcess, TEST_TOKEN } from "../support/server.ts";

const PASSWORD = "correct-horse-battery-staple";
/** Nearly right, as somebody mistypes it: in a log it would be as good as the right one. */
const MISTYPED = `${TEST_TOKEN}x`;

function withPassword(url: string): string {
  const parsed = new URL(url);
  parsed.password = PASSWORD;
  return parsed.href;
}

class Talk {
  readonly heard: string[] = [];

  constructor(private readonly url: string) {}

  /** Sends a request and keeps the answer, headers and all; answers its body. */
  async send(method: string, path: string, token: string, body?: BodyInit, type = "application/json") {
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { "content-type": type }) },
      ...(body === undefined ? {} : { body }),
      signal: AbortSignal.timeout(30_000),
    });
    const text = await response.text();
    return { text, whole: `${response.status} ${JSON.stringify([...response.headers])} ${text}` };
  }

  async hear(...request: Parameters<Talk["send"]>): Promise<string> {
    const { text, whole } = await this.send(...request);
    this.heard.push(whole);
    return text;
  }
}

/** The command lines of all processes, as everybody on the machine can see them. */
async function readProcesses(): Promise<string> {
  const { stdout } = await new Deno.Command("ps", { args: ["-A", "-ww", "-o", "args"] }).output();
  return new TextDecoder().decode(stdout);
}

Deno.test(
  "no token, password or private key is in logs, errors, audit, events, metrics or the process list",
  async () => {
    await using test = await createTestDatabase();
    const logged: string[] = [];
    let processes: string;
    let talk: Talk;
    const secrets = [TEST_TOKEN, PASSWORD];
    {
      await using server = await startServerProcess(
        { DATABASE_URL: withPassword(test.url), SNAPMARK_LOG: "debug" },
        [],
        { onLog: (text) => logged.push(text) },
      );
      talk = new Talk(server.url);
      const client = JSON.stringify({ name: "c", scopes: ["read", "write", "snapshot"] });
      // These two answers hand a token out: they are the only ones that are not searched.
      const created = JSON.parse((await talk.send("POST", "/clients", TEST_TOKEN, client)).text);
      const { token } = JSON.parse((await talk.send("POST", "/clients/c/rotate", TEST_TOKEN)).text);
      assertEquals([typeof created.token, typeof token], ["string", "string"]);
      secrets.push(created.token, token);
      await talk.hear("POST", "/volumes", TEST_TOKEN, JSON.stringify({ name: "v", blockCount: 8 }));
      await talk.hear("PUT", "/volumes/v/blocks/0", token, new Uint8Array(4096), "application/octet-stream");
      await talk.hear("PUT", "/volumes/v/blocks/8", token, new Uint8Array(4096), "application/octet-stream");
      await talk.hear("POST", "/snapshots", token, JSON.stringify({ volumes: ["v"] }));
      // Wrong tokens, and secrets in wrong places.
      await talk.hear("GET", "/volumes", MISTYPED);
      await talk.hear("GET", "/volumes", created.token);
      await talk.hear("GET", `/events?pool=main&token=${MISTYPED}`, TEST_TOKEN);
      await talk.hear("POST", "/clients", TEST_TOKEN, `{"name": "d", "token": "${MISTYPED}"}`);
      await talk.hear("DELETE", "/pools", token);
      for (
        const path of [
          "/clients",
          "/clients/c",
          "/audit",
          "/audit/verify",
          "/keys",
          "/metrics",
          "/openapi.json",
        ]
      ) {
        await talk.hear("GET", path, TEST_TOKEN);
      }
      processes = await readProcesses();
      server.kill("SIGTERM");
      await server.ended();
    }
    const rows = await test.database.$client<{ text: string }[]>`
      select a::text as text from audit a union all select e::text from events e union all select c::text from clients c`;
    const [{ key }] = await test.database.$client<
      { key: string }[]
    >`select private_key->>'d' as key from signing_keys`;
    secrets.push(key);

    const searched: Record<string, string> = {
      log: logged.join(""),
      answers: talk.heard.join("\n"),
      processes,
      tables: rows.map(({ text }) => text).join("\n"),
    };
    for (const [place, text] of Object.entries(searched)) {
      assertEquals(text.length > 100, true, `expected something in ${place}`);
      const leaked = secrets.map((secret) => text.includes(secret));
      assertEquals(leaked, secrets.map(() => false), `a secret is in ${place}`);
    }
  },
);

Deno.test("a start that fails tells neither the database's password nor the token", async () => {
  const environment = { SNAPMARK_ADMIN_TOKEN: TEST_TOKEN };
  const unreachable = `postgres://snapmark:${PASSWORD}@127.0.0.1:1/none`;
  const outcomes = [
    await runTask("migrate", { ...environment, DATABASE_URL: unreachable }),
    await runTask("migrate", { ...environment, DATABASE_URL: `postgres:${PASSWORD}` }),
    await runTask("migrate", { SNAPMARK_ADMIN_TOKEN: `${PASSWORD} `, DATABASE_URL: unreachable }),
  ];
  for (const { code, stdout, stderr } of outcomes) {
    assertEquals(code, 1);
    assertEquals(
      [stdout, stderr].some((text) => text.includes(PASSWORD) || text.includes(TEST_TOKEN)),
      false,
    );
  }
});
