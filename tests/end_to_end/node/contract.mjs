// The official Node SDK against a running backend. Exits 0 when every claim holds.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [model, exactModel, embedder] = process.argv.slice(2);
const client = new OpenAI({
  baseURL: process.env.RINGFENCE_URL + "/v1",
  apiKey: process.env.RINGFENCE_KEY,
  maxRetries: 0,
});
const messages = [{ role: "user", content: "What is the capital of France?" }];

const answer = await client.chat.completions.create({
  model: exactModel, messages, temperature: 0, max_tokens: 24,
});
assert.match(answer.choices[0].message.content, /Paris/);
assert.equal(answer.choices[0].finish_reason, "stop");
assert.ok(answer._request_id);

const stream = await client.chat.completions.create({
  model: exactModel, messages, temperature: 0, max_tokens: 24, stream: true,
  stream_options: { include_usage: true },
});
let text = "";
let usage = null;
const ids = new Set();
for await (const chunk of stream) {
  ids.add(chunk.id);
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, answer.choices[0].message.content);
assert.equal(ids.size, 1);
assert.equal(usage.completion_tokens, answer.usage.completion_tokens);

const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
  additionalProperties: false,
};
const called = await client.chat.completions.create({
  model, messages, temperature: 0, max_tokens: 128, tool_choice: "required",
  tools: [{ type: "function", function: { name: "look_up", parameters } }],
});
const call = called.choices[0].message.tool_calls[0];
assert.equal(call.function.name, "look_up");
assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);

const completion = await client.completions.create({ model, prompt: "The sky is", max_tokens: 4 });
assert.equal(completion.usage.completion_tokens, 4);

const embeddings = await client.embeddings.create({ model: embedder, input: ["a", "b"] });
assert.equal(embeddings.data.length, 2);
const length = Math.hypot(...embeddings.data[0].embedding);
assert.ok(Math.abs(length - 1) < 1e-4);

const listed = [];
for await (const card of client.models.list()) listed.push(card.id);
assert.ok(listed.includes(model) && listed.includes(embedder));

await assert.rejects(
  client.chat.completions.create({ model: "nope", messages }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
);

const controller = new AbortController();
const aborted = await client.chat.completions.create(
  { model, messages, max_tokens: 1000, stream: true }, { signal: controller.signal },
);
for await (const _ of aborted) { controller.abort(); break; }
