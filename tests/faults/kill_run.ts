/**
 * Runs of kills on one bed: its points are found by letting every scenario run unharmed, and then one kill comes after the other, always
 * on the same data. After each, what is dead is started again, and everything is held against the ledger.
 */

import { below } from "../support/history.ts";
import { KillBed, type Victim } from "./kill_bed.ts";
import type { SeenPoint } from "./kill_point.ts";
import {
  COPY_POOL,
  prepareScenarios,
  runScenario,
  type Scenario,
  SCENARIOS,
  settle,
  tidy,
} from "./kill_scenario.ts";
import { loadUntilStruck } from "./kill_load.ts";
import { Ledger } from "./ledger.ts";
import { LedgerCheck } from "./ledger_check.ts";

/** A point, where it is come by, and who is to be killed there. */
export interface PlannedKill {
  readonly scenario: Scenario;
  readonly point: SeenPoint;
  readonly victim: Victim;
}

/** How often what is known is deleted, in kills: so there are things of several scenarios at a time. */
const TIDY_EVERY = 3;
/** Longest load before somebody is killed. */
const LOAD_MS_MAX = 500;

export class KillRun implements AsyncDisposable {
  /** Kills that were survived, by victim. */
  readonly survived = new Map<Victim, number>();
  /** And by what was being done. */
  readonly phases = new Map<string, number>();
  /** What was aimed at, by what is done there. */
  readonly tried = new Set<string>();
  /** Points that did not come by again. */
  readonly missed: string[] = [];
  readonly #check: LedgerCheck;
  #checks = 0;

  private constructor(readonly bed: KillBed, readonly ledger: Ledger, private readonly random: () => number) {
    this.#check = new LedgerCheck(ledger, ["main", COPY_POOL]);
  }

  static async open(options: { apart: boolean }, random: () => number): Promise<KillRun> {
    const bed = await KillBed.open(options);
    const run = new KillRun(bed, new Ledger(bed), random);
    await prepareScenarios(run.ledger);
    return run;
  }

  /** All points of all scenarios, with everybody who can be killed there. `fresh`: each by a server that remembers nothing. */
  async findPoints({ fresh }: { fresh: boolean }, names?: string[]): Promise<PlannedKill[]> {
    const known = new Set<string>();
    const kills: PlannedKill[] = [];
    for (const scenario of SCENARIOS.filter(({ name }) => names?.includes(name) ?? true)) {
      if (fresh) {
        await this.bed.strike("server");
        await this.bed.restore();
      }
      this.bed.forgetPoints();
      await runScenario(this.ledger, scenario);
      for (const point of this.bed.seenPoints()) {
        if (known.has(point.id)) continue;
        known.add(point.id);
        for (const victim of this.#victimsAt(point)) kills.push({ scenario, point, victim });
      }
      await this.#verify();
    }
    return kills;
  }

  /** With the worker apart, the others are killed elsewhere. */
  #victimsAt({ role }: SeenPoint): readonly Victim[] {
    const { victims } = this.bed;
    return victims.includes("worker") ? victims.filter((victim) => victim === role) : victims;
  }

  /**
   * Runs a scenario with a kill in it, and fails unless that is survived. Whether a point comes by hangs on what goes on beside it; one that
   * does not is waited for once more.
   */
  async kill(planned: PlannedKill): Promise<void> {
    const { point, victim } = planned;
    this.tried.add(point.phase);
    // How often it comes by is not the same each time; the first time is the surest.
    const occurrence = below(this.random, 2) === 0 ? 1 : 1 + below(this.random, point.count);
    if (await this.#killAt(planned, occurrence) || await this.#killAt(planned, 1)) {
      add(this.survived, victim);
      add(this.phases, point.phase);
    } else this.missed.push(describeKill(planned, occurrence));
  }

  /** Answers whether the point came by. */
  async #killAt(planned: PlannedKill, occurrence: number): Promise<boolean> {
    const { scenario, point, victim } = planned;
    try {
      this.bed.aim({ id: point.id, occurrence, victim });
      await runScenario(this.ledger, scenario);
      const killed = await this.bed.restore();
      await this.#verify();
      return killed !== undefined;
    } catch (error) {
      throw new Error(`Not survived: ${describeKill(planned, occurrence)}`, { cause: error });
    }
  }

  /** Kills somebody at a random moment amid load, and fails unless that is survived. */
  async killAmidLoad(victim: Victim): Promise<void> {
    const afterMs = below(this.random, LOAD_MS_MAX);
    try {
      const load = loadUntilStruck(this.ledger, this.random);
      await Promise.race([load, new Promise((resolve) => setTimeout(resolve, afterMs))]);
      await this.bed.strike(victim);
      await load;
      await this.bed.restore();
      add(this.survived, victim);
      add(this.phases, "random moments");
      await this.#check.check();
    } catch (error) {
      throw new Error(`Not survived: ${victim} killed after ${afterMs} ms of load`, { cause: error });
    }
  }

  async #verify(): Promise<void> {
    await this.#check.check();
    if (++this.#checks % TIDY_EVERY === 0) await tidy(this.ledger);
  }

  /** Deletes everything, and fails unless all space comes back. Staged contents of the dead are made to be overdue. */
  async end(): Promise<void> {
    const { bed, ledger } = this;
    await this.#check.verifyAudit();
    await tidy(ledger);
    await bed.database.$client`update stagings set kept_until = now() where kept_until is not null`;
    await settle(ledger);
    await this.#check.check();
    await this.#check.checkEmpty();
  }

  /** Kills that were tried, those included whose point did not come by. */
  get kills(): number {
    return this.missed.length + [...this.survived.values()].reduce((sum, times) => sum + times, 0);
  }

  describe(): string {
    const count = (counts: Map<string, number>) =>
      [...counts].map(([name, times]) => `${name} ${times}`).join(", ");
    return `survived ${this.kills - this.missed.length} kills (${count(this.survived)}) at ${
      count(this.phases)
    }; ${this.missed.length} did not come by`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.bed[Symbol.asyncDispose]();
  }
}

function describeKill({ scenario, point, victim }: PlannedKill, occurrence: number): string {
  return `${victim} killed ${point.id}, time ${occurrence}, in "${scenario.name}"`;
}

/** What a lost write would come of: each of it is met by a kill of whoever does it. */
const HEART = ["append", "marker", "flush", "seal", "reclaim"];

/**
 * The points in an order to try them: `first` so that everything that is done is met, and everybody killed; `further` all others, by
 * chance.
 */
export function sampleKills(
  kills: PlannedKill[],
  random: () => number,
  phases = [...new Set(kills.map(({ point }) => point.phase))],
): { first: PlannedKill[]; further: PlannedKill[] } {
  const left = shuffle(kills, random);
  const first: PlannedKill[] = [];
  const take = (isFitting: (kill: PlannedKill) => boolean) => {
    const index = left.findIndex(isFitting);
    if (index >= 0) first.push(...left.splice(index, 1));
  };
  const victims = [...new Set(left.map(({ victim }) => victim))];
  for (const [index, phase] of phases.entries()) {
    take(({ point, victim }) => point.phase === phase && victim === victims[index % victims.length]);
  }
  for (const phase of HEART) take(({ point, victim }) => point.phase === phase && victim === point.role);
  return { first, further: left };
}

function shuffle<T>(things: T[], random: () => number): T[] {
  return things.map((thing) => ({ thing, place: random() })).sort((a, b) => a.place - b.place).map((
    { thing },
  ) => thing);
}

/** The seed that is given, or one by chance. */
export function chooseSeed(): number {
  const given = Deno.env.get("KILL_SEED");
  return given === undefined ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(given);
}

function add<K>(counts: Map<K, number>, key: K): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}
