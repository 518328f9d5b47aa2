/** TLS: certificates from files, changed while the server runs. */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { dirname, fromFileUrl, join } from "@std/path";
import { HTTP_LIMITS } from "../../src/config.ts";
import { Metrics } from "../../src/http/metrics.ts";
import { readCertificate } from "../../src/http/certificate.ts";
import { serveHttp } from "../../src/http/server.ts";
import { createTestStorage } from "../support/storage.ts";

const PAIRS = join(dirname(fromFileUrl(import.meta.url)), "../support/tls");

async function putFiles(directory: string, certificate: string, key = certificate): Promise<void> {
  await Deno.copyFile(join(PAIRS, `${certificate}.crt`), join(directory, "crt"));
  await Deno.copyFile(join(PAIRS, `${key}.key`), join(directory, "key"));
}

/** The status by a new connection of a client that trusts that certificate alone. */
async function status(url: string, trusted: string): Promise<number> {
  const caCerts = [await Deno.readTextFile(join(PAIRS, `${trusted}.crt`))];
  using client = Deno.createHttpClient({ caCerts });
  const response = await fetch(`${url}/health/live`, { client });
  await response.body?.cancel();
  return response.status;
}

Deno.test("a server with a certificate answers by TLS, and takes a new one while it runs; a wrong pair changes nothing", async () => {
  await using test = await createTestStorage();
  await using resources = new AsyncDisposableStack();
  const directory = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  resources.defer(() => Deno.remove(directory, { recursive: true }));
  await putFiles(directory, "first");
  const files = { certificateFile: join(directory, "crt"), keyFile: join(directory, "key") };
  const faults: unknown[] = [];
  const server = serveHttp(
    {
      storage: test.storage,
      metrics: new Metrics(),
      limits: { ...HTTP_LIMITS, blocksBytesMax: 1 },
      cacheBytesMax: 1,
      authenticate: () => undefined,
      onRequest: () => {},
      onFault: (error) => faults.push(error),
      onCorrupt: (error) => faults.push(error),
    },
    { host: "127.0.0.1", port: 0 },
    { files, certificate: await readCertificate(files) },
  );
  resources.defer(() => server.stop(1_000));
  assertEquals([server.url.startsWith("https://127.0.0.1:"), await status(server.url, "first")], [true, 200]);
  await assertRejects(() => status(server.url, "second"));
  await assertRejects(() => fetch(server.url.replace("https", "http")));

  await putFiles(directory, "second");
  await server.lookAtCertificate();
  assertEquals([await status(server.url, "second"), faults], [200, []]);
  await assertRejects(() => status(server.url, "first"));

  await putFiles(directory, "first", "second");
  await server.lookAtCertificate();
  await server.lookAtCertificate();
  await Deno.writeTextFile(files.certificateFile, "not PEM");
  await server.lookAtCertificate();
  await Deno.remove(join(directory, "key"));
  await server.lookAtCertificate();
  assertEquals([await status(server.url, "second"), faults.length], [200, 4]);
  for (const fault of faults.slice(0, 3)) {
    assertMatch(String(fault), /Cannot use the certificate, see SNAPMARK_TLS_CERT and SNAPMARK_TLS_KEY: /);
  }
  await putFiles(directory, "first");
  await server.lookAtCertificate();
  assertEquals([await status(server.url, "first"), faults.length], [200, 4]);
});
