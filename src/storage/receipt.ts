/**
 * Receipts: what a client keeps of a snapshot request, signed, so that it can prove later what was recorded of it.
 *
 *     signature = Ed25519 over the fields "receipt", pool id, snapshot id, audit id, chain hash in hex, marker's sequence, CDB in hex,
 *                 framed like those of the audit's chain
 *
 * The chain hash fixes the audit up to that record: whoever rewrites the database and chains it anew cannot make the chain fit a
 * receipt that somebody else keeps. A receipt can be made again at any time, and is the same then: Ed25519 has no chance in it.
 *
 * The key is made by whoever needs it first and stands in the database, because that is all that servers share: a key in a data
 * directory would be another one on each machine. So who can read the whole database can sign; what clients hold
 * tells all the same what was changed. The private key leaves this file nowhere.
 */

import type { Database } from "../database/client.ts";
import { frameFields } from "./audit_chain.ts";
import type { Snapshot } from "./snapshot.ts";

/** What is signed, and the signature in base64. */
export interface Receipt {
  readonly poolId: string;
  readonly snapshotId: string;
  readonly auditId: string;
  /** In hex, as is `cdb`. */
  readonly chainHash: string;
  readonly sequence: number;
  readonly cdb: string;
  readonly keyId: string;
  readonly signature: string;
}

/** A public key as a JWK (RFC 8037); `kid` is its thumbprint (RFC 7638). */
export interface PublicKey {
  readonly kty: "OKP";
  readonly crv: "Ed25519";
  readonly x: string;
  readonly kid: string;
}

interface SigningKey {
  readonly privateKey: CryptoKey;
  readonly publicKey: PublicKey;
}

/** A private key as it is stored. */
interface PrivateJwk {
  readonly kty: "OKP";
  readonly crv: "Ed25519";
  readonly x: string;
  readonly d: string;
}

const KEY_NAME = "receipts";

// Statements

async function selectKey({ $client }: Database): Promise<PrivateJwk | undefined> {
  const [row] = await $client<{ private_key: PrivateJwk }[]>`
    select private_key from signing_keys where key_name = ${KEY_NAME}`;
  return row?.private_key;
}

async function insertKey({ $client }: Database, key: PrivateJwk, at: Date): Promise<void> {
  await $client`
    insert into signing_keys (key_name, private_key, created_at)
    values (${KEY_NAME}, ${JSON.stringify(key)}::text::jsonb, ${at.toISOString()})
    on conflict (key_name) do nothing`;
}

// Verbs

/** Signs receipts, with the key of the installation. */
export class Receipts {
  readonly #database: Database;
  readonly #clock: () => Date;
  #key: Promise<SigningKey> | undefined;

  constructor(database: Database, clock: () => Date) {
    this.#database = database;
    this.#clock = clock;
  }

  /** The receipt for the request that took `snapshot`. */
  async sign(snapshot: Snapshot): Promise<Receipt> {
    const { privateKey, publicKey } = await this.#open();
    const { pool: { poolId }, snapshotId, auditId, chainHash, sequence, cdb } = snapshot;
    const signed = { poolId, snapshotId, auditId, chainHash: chainHash.toHex(), sequence, cdb: cdb.toHex() };
    const signature = await crypto.subtle.sign("Ed25519", privateKey, toSigned(signed));
    return { ...signed, keyId: publicKey.kid, signature: new Uint8Array(signature).toBase64() };
  }

  /** The keys by which receipts can be checked; makes the key when there is none yet. */
  async listKeys(): Promise<PublicKey[]> {
    return [(await this.#open()).publicKey];
  }

  #open(): Promise<SigningKey> {
    this.#key ??= openKey(this.#database, this.#clock()).catch((error) => {
      this.#key = undefined;
      throw error;
    });
    return this.#key;
  }
}

/** Tells whether a receipt was signed with one of `keys`, and is as it was then. */
export async function isSigned(receipt: Receipt, keys: PublicKey[]): Promise<boolean> {
  const key = keys.find(({ kid }) => kid === receipt.keyId);
  if (key === undefined) return false;
  const { kty, crv, x } = key;
  const publicKey = await crypto.subtle.importKey("jwk", { kty, crv, x }, "Ed25519", false, ["verify"]);
  const signature = Uint8Array.fromBase64(receipt.signature);
  return await crypto.subtle.verify("Ed25519", publicKey, signature, toSigned(receipt));
}

/** Of several processes that make a key at the same time, the first one's stays. */
async function openKey(database: Database, at: Date): Promise<SigningKey> {
  if (await selectKey(database) === undefined) await insertKey(database, await createKey(), at);
  const stored = await selectKey(database);
  if (stored === undefined) throw new Error("Cannot find the signing key: it was deleted just now");
  const { kty, crv, x } = stored;
  const privateKey = await crypto.subtle.importKey("jwk", { ...stored }, "Ed25519", false, ["sign"]);
  return { privateKey, publicKey: { kty, crv, x, kid: await toThumbprint(x) } };
}

async function createKey(): Promise<PrivateJwk> {
  const pair = await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"]) as CryptoKeyPair;
  const { x, d } = await crypto.subtle.exportKey("jwk", pair.privateKey);
  return { kty: "OKP", crv: "Ed25519", x: x as string, d: d as string };
}

async function toThumbprint(x: string): Promise<string> {
  const members = new TextEncoder().encode(`{"crv":"Ed25519","kty":"OKP","x":"${x}"}`);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", members));
  return digest.toBase64({ alphabet: "base64url", omitPadding: true });
}

function toSigned(receipt: Omit<Receipt, "keyId" | "signature">): Uint8Array<ArrayBuffer> {
  const { poolId, snapshotId, auditId, chainHash, sequence, cdb } = receipt;
  return frameFields(["receipt", poolId, snapshotId, auditId, chainHash, String(sequence), cdb]);
}
