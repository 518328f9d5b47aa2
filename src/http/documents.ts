/**
 * `/openapi.json`, `/openapi.yaml` and `/docs`: the door's own description, open to everyone and without the internet.
 *
 * The reference page is Swagger UI, whose files come with the dependencies.
 */

import { join } from "@std/path";
import { stringify } from "@std/yaml";
import getAbsoluteFSPath from "swagger-ui-dist/absolute-path.js";
import type { DoorApp } from "./door.ts";
import { KEY_PARAMETER, takesKey } from "./idempotency.ts";

const VERSION = "0.1.0";

/** The OpenAPI 3.1 document of every route and message. */
export function describeDoor(app: DoorApp): object {
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "Snapmark",
      version: VERSION,
      description: "Block storage over HTTP with exact-moment snapshots that pause nobody.",
      license: { name: "Apache-2.0", url: "https://www.apache.org/licenses/LICENSE-2.0" },
    },
    servers: [{ url: "/" }],
    security: [{ bearer: [] }, { basic: [] }],
    tags: [
      "pools",
      "devices",
      "volumes",
      "blocks",
      "snapshots",
      "copies",
      "schedules",
      "clients",
      "audit",
      "events",
      "health",
    ]
      .map((name) => ({
        name,
      })),
  });
  for (const [path, { post }] of Object.entries(document.paths ?? {})) {
    if (post === undefined || !takesKey("POST", path, takesJson(post.requestBody))) continue;
    post.parameters = [...post.parameters ?? [], { $ref: "#/components/parameters/IdempotencyKey" }];
  }
  return document;
}

function takesJson(body: object | undefined): boolean {
  return body !== undefined && "content" in body && "application/json" in (body.content as object);
}

/** The document as YAML, as it stands in `openapi.yaml`. */
export function toYaml(document: object): string {
  return stringify(document, { lineWidth: 110, skipInvalid: true, useAnchors: false });
}

export function registerDocuments(app: DoorApp): void {
  app.openAPIRegistry.registerComponent("securitySchemes", "bearer", { type: "http", scheme: "bearer" });
  app.openAPIRegistry.registerComponent("securitySchemes", "basic", {
    type: "http",
    scheme: "basic",
    description: "The token as password, and any user name: for tools that know nothing else",
  });
  app.openAPIRegistry.registerComponent("parameters", "IdempotencyKey", KEY_PARAMETER);

  let document: object | undefined;
  const describe = () => document ??= describeDoor(app);
  app.get("/openapi.json", (c) => c.json(describe()));
  app.get("/openapi.yaml", (c) => c.body(toYaml(describe()), 200, { "content-type": "application/yaml" }));

  app.get("/docs", (c) => c.html(PAGE, 200, { "content-security-policy": PAGE_POLICY }));
  for (const [file, type] of Object.entries(ASSETS)) {
    app.get(`/docs/${file}`, async (c) => c.body(await readAsset(file), 200, { "content-type": type }));
  }
  app.get("/docs/start.js", (c) => c.body(START, 200, { "content-type": "text/javascript; charset=utf-8" }));
}

const ASSETS: Record<string, string> = {
  "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
  "swagger-ui.css": "text/css; charset=utf-8",
};

const PAGE_POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

const PAGE = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Snapmark API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="reference"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`;

const START =
  `SwaggerUIBundle({ url: "/openapi.json", dom_id: "#reference", persistAuthorization: false });\n`;

async function readAsset(file: string): Promise<Uint8Array<ArrayBuffer>> {
  return await Deno.readFile(join(getAbsoluteFSPath(), file));
}
