import { assertEquals, assertThrows } from "@std/assert";
import { readConfig } from "../src/config.ts";

const read = (environment: Record<string, string>) => readConfig((name) => environment[name]);

Deno.test("readConfig() has a default for everything, and takes an empty variable for none", () => {
  assertEquals(read({ SNAPMARK_PORT: "", DATABASE_URL: "" }), {
    host: "127.0.0.1",
    port: 8080,
    dataDir: "./data",
    logLevel: "info",
    corsOrigins: [],
    deviceBytes: 68_719_476_736,
    cacheBytesMax: 1_073_741_824,
  });
});

Deno.test("readConfig() names every problem at once and no value", () => {
  const environment = {
    SNAPMARK_PORT: "port-secret",
    SNAPMARK_ADMIN_TOKEN: "short",
    DATABASE_URL: "mysql://user:secret@host/db",
    SNAPMARK_LOG: "loud",
  };
  const { message } = assertThrows(() => read(environment), Error) as Error;
  for (const name of Object.keys(environment)) assertEquals(message.includes(name), true);
  for (const value of ["secret", "short", "mysql"]) assertEquals(message.includes(value), false);
});

Deno.test("readConfig() leaves loopback only with a certificate and its key, or when it is told that it may", () => {
  const tls = { SNAPMARK_TLS_CERT: "c", SNAPMARK_TLS_KEY: "k" };
  for (const host of ["127.0.0.1", "127.8.9.1", "::1", "localhost"]) {
    assertEquals(read({ SNAPMARK_HOST: host }).host, host);
  }
  for (const host of ["0.0.0.0", "::", "example.org", "192.168.1.9", "127.0.0.1.example.org"]) {
    assertThrows(() => read({ SNAPMARK_HOST: host }), Error, "SNAPMARK_INSECURE");
    assertEquals(read({ SNAPMARK_HOST: host, SNAPMARK_INSECURE: "1" }).tls, undefined);
    assertEquals(read({ SNAPMARK_HOST: host, ...tls }).tls, { certificateFile: "c", keyFile: "k" });
  }
  for (const name of ["SNAPMARK_TLS_CERT", "SNAPMARK_TLS_KEY"]) {
    assertThrows(() => read({ [name]: "x" }), Error, "SNAPMARK_TLS_CERT");
  }
});
