/**
 * The admin token: the key to the front doors by which the first clients are made. Who has it may do everything.
 *
 * It comes from the environment, or is made once and kept in the data directory for its owner's eyes only. Tokens are
 * compared at their full width in constant time, so that neither content nor length can be guessed from how long it takes.
 */

import { timingSafeEqual } from "node:crypto";
import { join } from "@std/path";
import type { Config } from "./config.ts";
import { SCOPES } from "./storage/client.ts";

/** Who comes with the admin token. */
export const ADMIN = {
  clientId: "00000000-0000-7000-8000-000000000001",
  clientName: "admin",
  priority: 0,
  scopes: SCOPES,
} as const;

const TOKEN_BYTES = 32;
/** The longest token that there can be. */
const TOKEN_BYTES_MAX = 256;
/** Behind the token's place, its length. */
const PADDED_BYTES = TOKEN_BYTES_MAX + 4;
const encoder = new TextEncoder();

/** The admin token, and where it stands: the file, or the environment variable. */
export async function findAdminToken(
  { adminToken, dataDir }: Pick<Config, "adminToken" | "dataDir">,
): Promise<{ token: string; place: string }> {
  if (adminToken !== undefined) return { token: adminToken, place: "SNAPMARK_ADMIN_TOKEN" };
  await Deno.mkdir(dataDir, { recursive: true });
  const place = join(dataDir, "admin-token");
  const token = await readToken(place) ?? await makeToken(place);
  return { token, place };
}

/** Who comes with a token, if anybody: for the front doors. */
export function authenticateAdmin(adminToken: string): (token: string) => typeof ADMIN | undefined {
  const expected = pad(adminToken, new Uint8Array(PADDED_BYTES));
  const given = new Uint8Array(PADDED_BYTES);
  return (token) => timingSafeEqual(pad(token, given), expected) ? ADMIN : undefined;
}

/** Fills `padded` with the token, zeros, and the number of characters: alike for equal tokens only. */
function pad(token: string, padded: Uint8Array): Uint8Array {
  padded.fill(0);
  encoder.encodeInto(token, padded.subarray(0, TOKEN_BYTES_MAX));
  new DataView(padded.buffer).setUint32(TOKEN_BYTES_MAX, token.length);
  return padded;
}

async function readToken(place: string): Promise<string | undefined> {
  try {
    const token = (await Deno.readTextFile(place)).trim();
    if (!/^[\x21-\x7e]{16,256}$/.test(token)) {
      throw new Error(
        `Cannot use the token in ${place}: expected 16 to 256 visible ASCII characters; remove the file`,
      );
    }
    return token;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Makes the file whole or not at all; of two processes at once, the first one's token stands. */
async function makeToken(place: string): Promise<string> {
  const token = crypto.getRandomValues(new Uint8Array(TOKEN_BYTES)).toBase64({
    alphabet: "base64url",
    omitPadding: true,
  });
  const draft = `${place}.${crypto.randomUUID()}`;
  await Deno.writeTextFile(draft, `${token}\n`, { mode: 0o600, createNew: true });
  try {
    await Deno.link(draft, place);
    return token;
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    return await readToken(place) as string;
  } finally {
    await Deno.remove(draft);
  }
}
