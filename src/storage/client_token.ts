/**
 * A client's token: `sm_`, the client's id, and 256 random bits. By the id its row is found; what stands there is the SHA-256 of
 * the token, compared in constant time. So many random bits need no slow hash: nobody can try them.
 */

import { createHash, timingSafeEqual } from "node:crypto";

const TOKEN = /^sm_([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})_[A-Za-z0-9_-]{43}$/;
const SECRET_BYTES = 32;

/** Makes a token, which is to be shown once, and its hash, which is to be stored. */
export function createClientToken(clientId: string): { token: string; tokenHash: Uint8Array } {
  const secret = crypto.getRandomValues(new Uint8Array(SECRET_BYTES)).toBase64({
    alphabet: "base64url",
    omitPadding: true,
  });
  const token = `sm_${clientId.replaceAll("-", "")}_${secret}`;
  return { token, tokenHash: hash(token) };
}

/** The id of the client whose token this would be; undefined for what is no token. */
export function readClientId(token: string): string | undefined {
  return TOKEN.exec(token)?.slice(1).join("-");
}

/** Tells whether `token` is the one that was hashed, in constant time. */
export function isToken(token: string, tokenHash: Uint8Array): boolean {
  return timingSafeEqual(hash(token), tokenHash);
}

function hash(token: string): Uint8Array {
  return createHash("sha256").update(token).digest();
}
