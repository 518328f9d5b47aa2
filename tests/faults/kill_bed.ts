/**
 * What is killed: a PostgreSQL of its own, a server and perhaps a worker beside it, each of the two behind a proxy of its own. They are
 * real processes, and end by SIGKILL; whatever is dead is started again on the same data.
 *
 * A blow that is dealt at a point stops all that goes between its victims and PostgreSQL in that moment, kills, and then closes the
 * victims' connections. So PostgreSQL has got exactly what came before the point, and the next look at it waits until the
 * processes that served the dead have done with that.
 *
 * The process that takes the place of a dead one alone is brought up meanwhile, and held at its first statement.
 */

import { closeDatabase, type Database, openDatabase } from "../../src/database/client.ts";
import { until } from "../support/door.ts";
import { type OwnPostgres, startOwnPostgres } from "../support/own_postgres.ts";
import { type PostgresProxy, startPostgresProxy } from "../support/postgres_proxy.ts";
import {
  startServerProcess,
  startWorkerProcess,
  type TestProcess,
  type TestServer,
} from "../support/server.ts";
import { PointWatch, type SeenPoint } from "./kill_point.ts";

/** Who is killed. */
export const VICTIMS = ["server", "worker", "postgres", "all"] as const;
export type Victim = typeof VICTIMS[number];

type Role = "server" | "worker";

interface Running {
  readonly process: TestProcess & Partial<TestServer>;
  readonly proxy: PostgresProxy;
}

/** A process that is held at its first statement. */
interface Waiting {
  readonly proxy: PostgresProxy;
  readonly starting: Promise<Running["process"]>;
  readonly release: () => void;
}

interface Aim {
  readonly id: string;
  readonly occurrence: number;
  readonly victim: Victim;
}

export class KillBed implements AsyncDisposable {
  readonly #running = new Map<Role, Running>();
  readonly #waiting = new Map<Role, Waiting>();
  readonly #watch = new PointWatch((id, count) => this.#onPoint(id, count));
  #aim?: Aim;
  #blow?: { readonly victim: Victim; readonly done: Promise<void> };
  #struck = Promise.withResolvers<void>();
  #frozen?: { readonly roles: readonly Role[]; readonly until: Promise<void> };
  #database?: Database;

  private constructor(private readonly postgres: OwnPostgres, private readonly roles: readonly Role[]) {}

  /** Starts all. `apart`: the worker is a process of its own, and the server has none. */
  static async open({ apart }: { apart: boolean }): Promise<KillBed> {
    const bed = new KillBed(await startOwnPostgres(), apart ? ["server", "worker"] : ["server"]);
    for (const role of bed.roles) await bed.#start(role);
    return bed;
  }

  /** Of the server that runs now. */
  get url(): string {
    return this.#running.get("server")?.process.url as string;
  }

  /** Whether a blow has fallen, and nothing is to be asked of anybody until {@linkcode KillBed.restore}. */
  get isStruck(): boolean {
    return this.#blow !== undefined;
  }

  /** Resolves when a blow falls. */
  get struck(): Promise<void> {
    return this.#struck.promise;
  }

  get victims(): readonly Victim[] {
    return VICTIMS.filter((victim) => victim !== "worker" || this.roles.includes("worker"));
  }

  /** A look at the data that goes past everybody. */
  get database(): Database {
    return this.#database ??= openDatabase(this.postgres.url, { connectionsMax: 2 });
  }

  /** Forgets what points were seen. */
  forgetPoints(): void {
    this.#watch.reset();
  }

  seenPoints(): SeenPoint[] {
    return this.#watch.seen();
  }

  /** Has a victim killed when a point is come by so often from now on. */
  aim(aim: Aim): void {
    this.#watch.reset();
    this.#aim = aim;
    this.#prepare(aim.victim);
  }

  /** Brings up who is to take the place of a victim, unless its PostgreSQL goes too. */
  #prepare(victim: Victim): void {
    if ((victim === "server" || victim === "worker") && !this.#waiting.has(victim)) this.#hold(victim);
  }

  /** Kills a victim now. */
  async strike(victim: Victim): Promise<void> {
    this.#prepare(victim);
    await this.#strikeOnce(victim);
  }

  /** Starts again what is dead, and waits until the server can do everything. Answers who was killed, if anybody was. */
  async restore(): Promise<Victim | undefined> {
    this.#aim = undefined;
    const blow = this.#blow;
    await blow?.done;
    if (blow !== undefined && blow.victim !== "server" && blow.victim !== "worker") {
      await this.postgres.start();
    }
    for (const role of this.roles) if (!this.#running.has(role)) await this.#start(role);
    await until(async () => await this.#isReady());
    this.#blow = undefined;
    this.#struck = Promise.withResolvers();
    return blow?.victim;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#aim = undefined;
    await this.#blow?.done;
    const { victim } = this.#blow ?? {};
    if (victim === "postgres" || victim === "all") await this.postgres.start();
    for (const running of this.#running.values()) await end(running);
    for (const [role, waiting] of this.#waiting) {
      // It can be ended when it is up.
      if (await this.#take(role, waiting)) await end(this.#running.get(role) as Running);
    }
    await this.#closeDatabase();
    await this.postgres[Symbol.asyncDispose]();
  }

  #rolesOf(victim: Victim): readonly Role[] {
    if (victim === "postgres") return [];
    return victim === "all" ? this.roles : [victim];
  }

  async #onPoint(id: string, count: number): Promise<void> {
    if (this.#aim?.id !== id || this.#aim.occurrence !== count) return;
    const { victim } = this.#aim;
    this.#aim = undefined;
    // Whoever waits here is a part of what is struck, or goes on when it is over.
    this.#strikeOnce(victim);
    await this.#frozen?.until;
  }

  #strikeOnce(victim: Victim): Promise<void> {
    if (this.#blow !== undefined) return this.#blow.done;
    const thawed = Promise.withResolvers<void>();
    this.#frozen = {
      roles: victim === "postgres" ? this.roles : this.#rolesOf(victim),
      until: thawed.promise,
    };
    const done = this.#kill(victim, () => {
      this.#frozen = undefined;
      thawed.resolve();
    });
    this.#blow = { victim, done };
    this.#struck.resolve();
    return done;
  }

  async #kill(victim: Victim, thaw: () => void): Promise<void> {
    const dying = this.#rolesOf(victim);
    for (const role of dying) this.#running.get(role)?.process.kill("SIGKILL");
    const killsPostgres = victim === "postgres" || victim === "all";
    if (killsPostgres) await this.postgres.kill();
    for (const role of dying) await this.#running.get(role)?.process.ended();
    const pids: number[] = [];
    for (const role of killsPostgres ? this.roles : dying) {
      pids.push(...this.#running.get(role)?.proxy.cut() ?? []);
    }
    thaw();
    for (const role of dying) {
      const running = this.#running.get(role);
      this.#running.delete(role);
      if (running !== undefined) await end(running);
    }
    if (killsPostgres) await this.#closeDatabase();
    else await until(async () => await this.#countSessions(pids) === 0);
  }

  async #countSessions(pids: number[]): Promise<number> {
    const rows = await this.database.$client`
      select from pg_stat_activity where datname = current_database() and pid = any(${pids}::integer[])`;
    return rows.length;
  }

  async #closeDatabase(): Promise<void> {
    if (this.#database !== undefined) await closeDatabase(this.#database, 0);
    this.#database = undefined;
  }

  /** Begins to start a process, and lets it wait. */
  #hold(role: Role): Waiting {
    const released = Promise.withResolvers<void>();
    const { onStatement, onAnswer } = this.#watch.hooksFor(role);
    const proxy = startPostgresProxy(this.postgres.url, {
      onStatement: async (statement) => {
        await released.promise;
        await this.#whileFrozen(role);
        await onStatement?.(statement);
        await this.#whileFrozen(role);
      },
      onAnswer: async (statement) => {
        await this.#whileFrozen(role);
        await onAnswer?.(statement);
        await this.#whileFrozen(role);
      },
    });
    const environment = { DATABASE_URL: proxy.url };
    // It has a lot to tell of a database that is away.
    const unheard = { onLog: () => {} };
    const hasWorkers = !this.roles.includes("worker");
    const starting: Promise<Running["process"]> = role === "worker"
      ? startWorkerProcess(environment, unheard)
      : startServerProcess(environment, hasWorkers ? [] : ["--no-flusher"], unheard);
    // Whoever starts it is told.
    starting.catch(() => {});
    const waiting = { proxy, starting, release: released.resolve };
    this.#waiting.set(role, waiting);
    return waiting;
  }

  async #whileFrozen(role: Role): Promise<void> {
    if (this.#frozen?.roles.includes(role)) await this.#frozen.until;
  }

  async #start(role: Role): Promise<void> {
    const held = this.#waiting.get(role);
    if (held !== undefined && await this.#take(role, held)) return;
    // Whoever waited has ended with the PostgreSQL that it was connected with.
    await this.#take(role, this.#hold(role));
  }

  /** Lets a process go on that was held, and answers whether it could. */
  async #take(role: Role, { release, starting, proxy }: Waiting): Promise<boolean> {
    this.#waiting.delete(role);
    release();
    const process = await starting.catch(() => undefined);
    if (process === undefined) await proxy[Symbol.asyncDispose]();
    else this.#running.set(role, { process, proxy });
    return process !== undefined;
  }

  async #isReady(): Promise<boolean> {
    const response = await fetch(`${this.url}/health/ready`).catch(() => undefined);
    await response?.body?.cancel();
    return response?.ok ?? false;
  }
}

async function end({ process, proxy }: Running): Promise<void> {
  await process[Symbol.asyncDispose]();
  await proxy[Symbol.asyncDispose]();
}
