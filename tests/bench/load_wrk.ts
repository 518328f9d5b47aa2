/**
 * `wrk` as the closed-loop load generator: one thread, a Lua script that makes the requests.
 *
 * The script has no `response` callback, which would parse every answer into tables: wrk counts the statuses above 399 by
 * itself. It counts the requests that it *makes* in the steady part. A connection makes one whenever one is answered, so the
 * rate is that of the answers.
 */

import { run } from "./machine.ts";
import { gridOf, type LoadPlan, pathOf } from "./load_plan.ts";
import type { ClosedLoadCount, ClosedLoadOrder } from "./load_closed.ts";

/** A request that takes longer counts as a failure. */
const REQUEST_SECONDS_MAX = 30;

/** `wrk` and its version; undefined where it is not installed. */
export async function findWrk(): Promise<string | undefined> {
  // `wrk -v` prints its version and its usage, and fails.
  const output = await run("sh", ["-c", "wrk -v 2>&1 || true"]);
  const version = output === undefined ? null : /^wrk (\S+)/m.exec(output);
  return version === null ? undefined : `wrk ${version[1].split("/").at(-1)}`;
}

/** The arguments of a run; `script` is the path of what {@linkcode toWrkScript} made. */
export function toWrkArguments(
  { plan, connections, warmupSeconds, seconds }: ClosedLoadOrder,
  script: string,
): string[] {
  return [
    "--threads=1",
    `--connections=${connections}`,
    `--duration=${Math.round(warmupSeconds + seconds)}s`,
    `--timeout=${REQUEST_SECONDS_MAX}s`,
    `--script=${script}`,
    plan.url,
  ];
}

/** The count that a run printed. @throws when there is none. */
export function parseWrkOutput(output: string): ClosedLoadCount {
  const line = output.split("\n").find((text) => text.startsWith("COUNT "));
  if (line === undefined) throw new Error(`Cannot find the count of wrk in: ${output}`);
  const [requests, seconds, failures] = line.split(" ").slice(1).map(Number);
  return { requests, seconds, failures };
}

/** A script that sends what the plan says. */
export function toWrkScript({ plan, warmupSeconds }: ClosedLoadOrder): string {
  const { stepBlocks, stepCount } = gridOf(plan);
  const paths = plan.volumes.map((volume) => JSON.stringify(pathOf(plan, volume).before));
  const random = plan.order === "random";
  return `${toPrologue(plan, warmupSeconds)}
local paths = { ${paths.join(", ")} }
local behind = ${JSON.stringify(pathOf(plan, "").behind)} .. tail
local step = ${plan.firstStep - 1}

function request()
  local at = now()
  if at >= steady then
    if made == 0 then first = at end
    made = made + 1
    last = at
  end
  ${random ? `step = math.random(0, ${stepCount - 1})` : `step = (step + 1) % ${stepCount}`}
  local path = paths[${paths.length === 1 ? "1" : `math.random(1, ${paths.length})`}]
  return "${plan.method} " .. path .. string.format("%d", step * ${stepBlocks}) .. behind .. body()
end

local threads = {}
function setup(thread) table.insert(threads, thread) end

function done(summary)
  local made, seconds = threads[1]:get("made"), threads[1]:get("last") - threads[1]:get("first")
  local errors = summary.errors
  local failures = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print("COUNT " .. made .. " " .. seconds .. " " .. failures)
end
`;
}

/** The clock, the counters, the head's constant part and the bodies. */
function toPrologue(plan: LoadPlan, warmupSeconds: number): string {
  const bodyBytes = plan.method === "PUT" ? plan.blocksPerRequest * plan.blockSizeBytes : 0;
  const headers = [
    " HTTP/1.1",
    `Host: ${new URL(plan.url).host}`,
    `Authorization: Bearer ${plan.token}`,
    ...(bodyBytes > 0 ? ["Content-Type: application/octet-stream", `Content-Length: ${bodyBytes}`] : []),
    "",
    "",
  ];
  return `local ffi = require("ffi")
ffi.cdef[[ struct moment { long seconds; long nanoseconds; }; int clock_gettime(int clock, struct moment *at); ]]
local moment = ffi.new("struct moment")
local function now()
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end
local tail = ${JSON.stringify(headers.join("\r\n"))}
${bodyBytes > 0 ? toBodies(bodyBytes) : `local function body() return "" end`}
made, first, last = 0, 0, 0
local steady = math.huge
function init()
  steady = now() + ${warmupSeconds}
  math.randomseed(os.time() + math.floor(steady * 1000) % 100000)
end`;
}

/** Bodies of random bytes, cut once: cutting a new one for each request would copy it once more. */
function toBodies(bodyBytes: number): string {
  const count = Math.max(8, Math.min(1024, Math.floor(16 * 2 ** 20 / bodyBytes)));
  return `local bodies = {}
do
  local source = io.open("/dev/urandom", "rb")
  for index = 1, ${count} do bodies[index] = source:read(${bodyBytes}) end
  source:close()
end
local turn = 0
local function body()
  turn = turn % ${count} + 1
  return bodies[turn]
end`;
}
