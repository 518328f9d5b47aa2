/**
 * A process that starts the bundled PostgreSQL on the data directory it is given, and then waits to be killed. It
 * prints a line for each step, and `ready` at the end.
 */
import { startEmbeddedPostgres } from "../../src/database/embedded/embedded_postgres.ts";

await startEmbeddedPostgres({ dataDir: Deno.args[0], onProgress: (line) => console.log(line) });
console.log("ready");
setInterval(() => {}, 60_000);
