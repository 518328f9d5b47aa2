/**
 * Clients as front doors see them: administers them, and tells whose token one is.
 *
 * A process remembers whom it has looked up, so that a token costs a hash and no query. What it remembers is short-lived, bounded,
 * and forgotten at once when this process ends a token; another process notices by the time that it has forgotten. A client that
 * does not exist is not remembered: who tries ids pushes nobody out.
 */

import type { Database } from "../database/client.ts";
import type { Actor } from "./actor.ts";
import {
  changeClient,
  type ClientChange,
  type ClientCredential,
  type ClientRecord,
  type ClientWithToken,
  createClient,
  findCredential,
  getClient,
  type KnownClient,
  listClients,
  type NewClient,
  noteUse,
  revokeClient,
  rotateClient,
} from "./client.ts";
import { type Named, requireWithin } from "./client_reach.ts";
import { isToken, readClientId } from "./client_token.ts";
import type { StorageLimits } from "./limits.ts";
import type { Page, PageRequest } from "./page.ts";
import { getVolumes } from "./volume.ts";

/** A new client, with references. */
export interface ClientInput extends Omit<NewClient, "volumes"> {
  readonly volumes?: string[];
}

export interface ClientsOptions {
  readonly limits: StorageLimits;
  readonly clock: () => Date;
}

interface Remembered {
  readonly credential: ClientCredential;
  /** By the process's own clock, which nobody sets. */
  readonly untilMs: number;
}

export class Clients {
  readonly #remembered = new Map<string, Remembered>();
  /** The look-ups that are under way, one for each client. */
  readonly #lookUps = new Map<string, Promise<ClientCredential | undefined>>();
  /** How many clients this process has changed or ended: what was looked up before is not remembered after. */
  #ended = 0;

  constructor(private readonly database: Database, private readonly options: ClientsOptions) {}

  async create(actor: Actor, { volumes, ...input }: ClientInput): Promise<ClientWithToken> {
    const bound = volumes === undefined ? undefined : await this.#findVolumes(volumes);
    const { limits, clock } = this.options;
    const client = { ...input, ...(bound === undefined ? {} : { volumes: bound }) };
    return await createClient(this.database, actor, client, limits, clock());
  }

  get(reference: string): Promise<ClientRecord> {
    return getClient(this.database, reference);
  }

  list(page: PageRequest): Promise<Page<ClientRecord>> {
    return listClients(this.database, page);
  }

  /** Changes a client's limits. */
  async change(actor: Actor, reference: string, change: ClientChange): Promise<ClientRecord> {
    const changed = await changeClient(this.database, actor, reference, change, this.options.clock());
    this.#forget(changed.clientId);
    return changed;
  }

  /** Gives a client a new token; the old one ends. */
  async rotate(actor: Actor, reference: string): Promise<ClientWithToken> {
    const rotated = await rotateClient(this.database, actor, reference, this.options.clock());
    this.#forget(rotated.client.clientId);
    return rotated;
  }

  /** Removes a client; its token ends. */
  async revoke(actor: Actor, reference: string): Promise<void> {
    this.#forget(await revokeClient(this.database, actor, reference, this.options.clock()));
  }

  /** Whose token this is, as far as it is remembered: at once, and without a query. */
  recall(token: string): KnownClient | undefined {
    const clientId = readClientId(token);
    const remembered = clientId === undefined ? undefined : this.#remembered.get(clientId);
    if (remembered === undefined || remembered.untilMs <= performance.now()) return undefined;
    return this.#judge(token, remembered.credential);
  }

  /** Whose token this is, if anybody's. */
  async authenticate(token: string): Promise<KnownClient | undefined> {
    const known = this.recall(token);
    if (known !== undefined) return known;
    const clientId = readClientId(token);
    if (clientId === undefined) return undefined;
    const credential = await this.#lookUp(clientId);
    const client = credential === undefined ? undefined : this.#judge(token, credential);
    if (client !== undefined) await this.#noteUse(credential as ClientCredential);
    return client;
  }

  /**
   * Demands that a client is bound to all that a request names.
   *
   * @throws {StorageError} `forbidden`, whether what is named exists or not.
   */
  requireWithin(client: KnownClient, named: Named): Promise<void> {
    return requireWithin(this.database, client.volumes ?? [], named);
  }

  #judge(token: string, { client, tokenHash, expiresAt }: ClientCredential): KnownClient | undefined {
    if (!isToken(token, tokenHash)) return undefined;
    return expiresAt !== undefined && expiresAt <= this.options.clock() ? undefined : client;
  }

  #lookUp(clientId: string): Promise<ClientCredential | undefined> {
    const underWay = this.#lookUps.get(clientId);
    if (underWay !== undefined) return underWay;
    const ended = this.#ended;
    const lookUp = findCredential(this.database, clientId).then((credential) => {
      if (credential !== undefined && ended === this.#ended) this.#remember(clientId, credential);
      return credential;
    }).finally(() => {
      if (this.#lookUps.get(clientId) === lookUp) this.#lookUps.delete(clientId);
    });
    this.#lookUps.set(clientId, lookUp);
    return lookUp;
  }

  #remember(clientId: string, credential: ClientCredential): void {
    const { rememberedClientsMax, rememberedClientsMs } = this.options.limits;
    this.#remembered.delete(clientId);
    const [oldest] = this.#remembered.keys();
    if (this.#remembered.size >= rememberedClientsMax) this.#remembered.delete(oldest);
    this.#remembered.set(clientId, { credential, untilMs: performance.now() + rememberedClientsMs });
  }

  #forget(clientId: string): void {
    this.#ended += 1;
    this.#remembered.delete(clientId);
    this.#lookUps.delete(clientId);
  }

  async #noteUse({ client: { clientId }, lastUsedAt }: ClientCredential): Promise<void> {
    const at = this.options.clock();
    const before = new Date(at.getTime() - this.options.limits.clientUsedMs);
    if (lastUsedAt === undefined || lastUsedAt <= before) {
      await noteUse(this.database, clientId, at, before);
    }
  }

  async #findVolumes(references: string[]) {
    const found = await getVolumes(this.database, references);
    const places = found.map(({ volumeId, pool: { poolId } }) => ({ poolId, volumeId }));
    return [...new Map(places.map((place) => [place.volumeId, place])).values()];
  }
}
