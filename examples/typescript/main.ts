// Works with a queen over Connect: node dist/main.js [--queen HOST:PORT] infer MODEL PROMPT | hives | watch

import process from "node:process";
import { parseArgs } from "node:util";
import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { HiveState } from "./gen/rbee/v1/hive_pb.js";
import { HiveService } from "./gen/rbee/v1/hive_service_pb.js";
import { InferenceService } from "./gen/rbee/v1/inference_service_pb.js";
import { TelemetryService } from "./gen/rbee/v1/telemetry_service_pb.js";

// Writes an answer to stdout as it comes, everything else that happens to stderr.
async function infer(queen: Transport, model: string, prompt: string): Promise<void> {
  const job = { model, input: { case: "prompt", value: prompt }, sampling: { maxTokens: 64, temperature: 0 } } as const;
  for await (const response of createClient(InferenceService, queen).infer({ job })) {
    for (const { event } of response.events) {
      switch (event.case) {
        case "tokens":
          process.stdout.write(event.value.text);
          break;
        case "done":
          console.error(`\ndone: ${event.value.usage?.completionTokens ?? 0} tokens`);
          break;
        default:
          console.error(event.case);
      }
    }
  }
}

// Prints a line for each machine.
async function hives(queen: Transport): Promise<void> {
  const client = createClient(HiveService, queen);
  let pageToken = "";
  do {
    const page = await client.list({ pageToken });
    for (const { id, state, devices, models } of page.hives) {
      console.log(`${id} ${HiveState[state]} ${devices.length} devices ${models.length} models`);
    }
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}

// Prints a line whenever the cluster is told of: all of it first, then what changed.
async function watch(queen: Transport): Promise<void> {
  const known = { hives: new Set<string>(), workers: new Set<string>() };
  for await (const change of createClient(TelemetryService, queen).watchCluster({})) {
    change.hives.forEach(({ id }) => known.hives.add(id));
    change.workers.forEach(({ id }) => known.workers.add(id));
    change.removedHiveIds.forEach((id) => known.hives.delete(id));
    change.removedWorkerIds.forEach((id) => known.workers.delete(id));
    const { queueDepth, tokensPerSecond } = change;
    console.log(
      `${known.hives.size} hives, ${known.workers.size} workers, ${queueDepth} waiting, ` +
        `${tokensPerSecond.toFixed(1)} tokens/s`,
    );
  }
}

const { values, positionals } = parseArgs({
  options: { queen: { type: "string", default: process.env["RBEE_QUEEN_HTTP"] ?? "127.0.0.1:7834" } },
  allowPositionals: true,
});
// In a browser, createConnectTransport comes from @connectrpc/connect-web; nothing else changes.
const queen = createConnectTransport({ baseUrl: `http://${values.queen}`, httpVersion: "1.1" });
const [command, model, prompt] = positionals;
try {
  if (command === "infer" && model !== undefined && prompt !== undefined) {
    await infer(queen, model, prompt);
  } else if (command === "hives") {
    await hives(queen);
  } else if (command === "watch") {
    await watch(queen);
  } else {
    console.error("usage: node dist/main.js [--queen HOST:PORT] infer MODEL PROMPT | hives | watch");
    process.exitCode = 2;
  }
} catch (failure) {
  // The reason of google.rpc.ErrorInfo is what programs can switch on.
  const error = ConnectError.from(failure);
  const [info] = error.findDetails(ErrorInfoSchema);
  console.error(`${info?.reason ?? error.code}: ${error.rawMessage}`);
  process.exitCode = 1;
}
