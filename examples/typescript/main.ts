// Streams one answer from a queen: node main.js http://localhost:7833 MODEL PROMPT

import process from "node:process";
import { createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import type { JobEvent } from "./gen/rbee/v1/event_pb.js";
import { FinishReason } from "./gen/rbee/v1/generation_pb.js";
import { InferenceService } from "./gen/rbee/v1/inference_service_pb.js";

async function* infer(transport: Transport, model: string, prompt: string): AsyncGenerator<JobEvent> {
  const job = { model, input: { case: "prompt", value: prompt }, sampling: { maxTokens: 64, temperature: 0 } } as const;
  for await (const response of createClient(InferenceService, transport).infer({ job })) {
    yield* response.events;
  }
}

const [baseUrl = "http://localhost:7833", model = "rbee-tiny", prompt = "What is a hive?"] = process.argv.slice(2);
for await (const { sequence, event } of infer(createGrpcTransport({ baseUrl }), model, prompt)) {
  switch (event.case) {
    case "tokens":
      process.stdout.write(event.value.text);
      break;
    case "done":
      console.error(`${sequence}: ${FinishReason[event.value.finishReason]}, ${event.value.usage?.completionTokens} tokens`);
      break;
    default:
      console.error(`${sequence}: ${event.case}`);
  }
}
