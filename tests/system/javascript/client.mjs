// Asks a queen all that OpenAI's client can ask of her, and prints what came as JSON: node client.mjs http://HOST:PORT/v1
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "any", maxRetries: 0 });
const question = { model: "rbee-tiny", messages: [{ role: "user", content: "What is a hive?" }], temperature: 0 };
const tool = {
  type: "function",
  function: { name: "count", parameters: { type: "object", properties: { of: { enum: ["bees"] } }, required: ["of"] } },
};
const begun = [{ role: "user", content: "Count!" }, { role: "assistant", content: '<tool_call>\n{"name": "count"' }];

const models = [];
for await (const model of client.models.list()) models.push(model.id);

const { data: whole, response } = await client.chat.completions.create(question).withResponse();

let streamed = "";
let usage = null;
const stream = await client.chat.completions.create({ ...question, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}

const called = await client.chat.completions
  .stream({ model: "tools", messages: begun, tools: [tool], tool_choice: "required", temperature: 0, max_tokens: 200 })
  .finalChatCompletion();

const text = await client.completions.create({ model: "rbee-tiny", prompt: "What is a hive?\n", max_tokens: 5 });

const failures = [];
for (const wrong of [{ model: "none-such" }, { temperature: 9, top_p: 0 }, { tools: [tool], stream: true }]) {
  try {
    await client.chat.completions.create({ ...question, ...wrong });
  } catch (error) {
    failures.push([error.constructor.name, error.status, error.code, error.param]);
  }
}

const endless = await client.chat.completions.create({ ...question, temperature: 1, stream: true });
for await (const _ of endless) break; // goes away in the middle

console.log(
  JSON.stringify({
    models,
    whole: whole.choices[0].message.content,
    worker: response.headers.get("x-rbee-worker"),
    streamed,
    usage,
    call: called.choices[0].message.tool_calls[0].function,
    text: text.usage.completion_tokens,
    failures,
  }),
);
