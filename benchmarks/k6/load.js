// Load on a Ringfence server with k6: arrivals that rise, a constant load, or faults between good
// requests. `make bench-k6` runs it; every setting is an environment variable (see `settings`).
//
// k6 reads no server-sent events, so what it knows of a stream is when its first byte came. That
// is TTFT where status 200 waits for the first delta, as Ringfence's does. A server that sends its
// headers at once (bare vLLM) would be shown far too fast.

import http from 'k6/http';
import { check } from 'k6';
import exec from 'k6/execution';
import { Counter, Rate, Trend } from 'k6/metrics';

const settings = {
  url: text('K6_URL', 'http://127.0.0.1:8000').replace(/\/+$/, '').replace(/\/v1$/, ''),
  model: text('K6_MODEL', 'smollm2-135m-instruct'),
  scenario: text('K6_SCENARIO', 'ramp'),
  ratePerS: number('K6_RATE', 2),
  seconds: number('K6_SECONDS', 60),
  maxTokens: number('K6_MAX_TOKENS', 64),
  promptWords: number('K6_PROMPT_WORDS', 80),
  longPromptWords: number('K6_LONG_PROMPT_WORDS', 20000),
  faultRatePerS: number('K6_FAULT_RATE', 1),
  abortMs: number('K6_ABORT_MS', 400),
  mostVus: number('K6_MAX_VUS', 256),
  timeoutS: number('K6_TIMEOUT_S', 120),
};
const limits = {
  ttftMs: number('K6_TTFT_P95_MS', 2000),
  e2eMs: number('K6_E2E_P95_MS', 30000),
  errorRate: number('K6_ERROR_RATE', 0.01),
  tokensPerS: number('K6_TOKENS_PER_S', 1),
};
const key = text('RINGFENCE_API_KEY', '');

// Of good requests only; what faults take is theirs.
const ttft = new Trend('ttft', true);
const e2e = new Trend('e2e', true);
const errors = new Rate('errors');
const outputTokens = new Counter('output_tokens');

// k6 takes whole numbers, so the unit of time is longer than a second.
const perUnit = (ratePerS) => Math.max(1, Math.round(ratePerS * 60));
const common = {
  timeUnit: '60s',
  preAllocatedVUs: Math.min(32, settings.mostVus),
  maxVUs: settings.mostVus,
  gracefulStop: `${settings.timeoutS}s`,
};
const constant = { ...common, executor: 'constant-arrival-rate', duration: `${settings.seconds}s` };
const good = { ...constant, exec: 'goodRequest', rate: perUnit(settings.ratePerS) };
const scenarios = {
  ramp: {
    good: {
      ...common,
      exec: 'goodRequest',
      executor: 'ramping-arrival-rate',
      startRate: 0,
      stages: [{ target: perUnit(settings.ratePerS), duration: `${settings.seconds}s` }],
    },
  },
  soak: { good },
  fault: {
    good,
    faults: { ...constant, exec: 'faultyRequest', rate: perUnit(settings.faultRatePerS) },
  },
};
if (!(settings.scenario in scenarios)) {
  throw new Error(`K6_SCENARIO ${settings.scenario} is none of ${Object.keys(scenarios)}`);
}

export const options = {
  scenarios: scenarios[settings.scenario],
  thresholds: {
    ttft: [`p(95)<${limits.ttftMs}`],
    e2e: [`p(95)<${limits.e2eMs}`],
    errors: [`rate<${limits.errorRate}`],
    output_tokens: [`rate>=${limits.tokensPerS}`],
    // Arrivals that found no virtual user were not sent: the load was not the one asked for.
    dropped_iterations: ['count<1'],
    ...(settings.scenario === 'fault' ? { 'checks{kind:fault}': ['rate==1'] } : {}),
  },
  summaryTrendStats: ['count', 'avg', 'min', 'med', 'p(90)', 'p(95)', 'p(99)', 'max'],
};

export function goodRequest() {
  const response = post(chat(prompt(settings.promptWords), settings.maxTokens));
  const usage = response.status === 200 ? lastUsage(response.body) : null;
  errors.add(usage === null);
  if (usage !== null) {
    ttft.add(response.timings.waiting);
    e2e.add(response.timings.duration);
    outputTokens.add(usage.completion_tokens);
  }
  check(response, { 'answered in full': () => usage !== null }, { kind: 'good' });
}

const faults = [
  {
    name: 'a wrong key is 401',
    send: () => post(chat('Hello.', 4), { key: 'sk-rf-wrong' }),
    good: (response) => refusal(response, 401, 'invalid_api_key'),
  },
  {
    name: 'malformed JSON is 400',
    send: () => post('{"model": '),
    good: (response) => refusal(response, 400, null),
  },
  {
    name: 'an unknown model is 404',
    send: () => post(chat('Hello.', 4, 'no-such-model')),
    good: (response) => refusal(response, 404, 'model_not_found'),
  },
  {
    name: 'a prompt beyond the context is 400',
    send: () => post(chat(prompt(settings.longPromptWords), 4)),
    good: (response) => refusal(response, 400, 'context_length_exceeded'),
  },
  {
    // Nothing comes back, so what is checked is that this client did hang up (k6's code 1050);
    // that the server goes on is what the good requests beside it show.
    name: 'a client hangs up',
    send: () => post(chat('Hello.', 1000), { timeout: `${settings.abortMs}ms` }),
    good: (response) => response.error_code === 1050,
  },
];

export function faultyRequest() {
  const fault = faults[exec.scenario.iterationInTest % faults.length];
  check(fault.send(), { [fault.name]: fault.good }, { kind: 'fault' });
}

export function handleSummary(data) {
  const result = {
    began: new Date(Date.now() - data.state.testRunDurationMs).toISOString(),
    took_s: data.state.testRunDurationMs / 1000,
    commit: text('K6_COMMIT', 'unknown'),
    command: text('K6_COMMAND', 'unknown'),
    versions: { k6: text('K6_BINARY_VERSION', 'unknown') },
    settings,
    limits,
    thresholds: thresholds(data.metrics),
    checks: checks(data.root_group),
    metrics: Object.fromEntries(
      Object.entries(data.metrics).map(([name, metric]) => [name, metric.values]),
    ),
  };
  const files = { stdout: lines(result) };
  if (__ENV.K6_RESULT) {
    files[__ENV.K6_RESULT] = `${JSON.stringify(result, null, 2)}\n`;
  }
  return files;
}

function thresholds(metrics) {
  return Object.entries(metrics).flatMap(([metric, { thresholds: kept = {} }]) =>
    Object.entries(kept).map(([rule, { ok }]) => ({ metric, rule, ok })),
  );
}

function checks(group) {
  return group.checks.map(({ name, passes, fails }) => ({ name, passes, fails }));
}

function lines(result) {
  const told = [
    ...result.thresholds.map(({ metric, rule, ok }) => `${ok ? 'ok  ' : 'FAIL'} ${metric} ${rule}`),
    ...result.checks.map(
      ({ name, passes, fails }) => `${fails ? 'FAIL' : 'ok  '} ${name}: ${passes} of ${passes + fails}`,
    ),
  ];
  for (const [name, unit] of [['ttft', 'ms'], ['e2e', 'ms']]) {
    const values = result.metrics[name];
    if (values && values.count) {
      const figures = ['med', 'p(95)', 'p(99)'].map((stat) => `${stat} ${values[stat].toFixed(1)}`);
      told.push(`${name}: ${figures.join(', ')} ${unit}, ${values.count} requests`);
    }
  }
  const tokens = result.metrics.output_tokens;
  told.push(`output tokens/s: ${tokens ? tokens.rate.toFixed(1) : 0}`);
  return `${told.join('\n')}\n`;
}

function post(body, { key: given = key, timeout = `${settings.timeoutS}s` } = {}) {
  const headers = { 'Content-Type': 'application/json' };
  if (given) {
    headers.Authorization = `Bearer ${given}`;
  }
  return http.post(`${settings.url}/v1/chat/completions`, body, { headers, timeout });
}

function chat(content, maxTokens, model = settings.model) {
  return JSON.stringify({
    model,
    messages: [{ role: 'user', content }],
    stream: true,
    stream_options: { include_usage: true },
    temperature: 0,
    ignore_eos: true,
    max_tokens: maxTokens,
  });
}

// Each opens with a number of its own, so that no prefix of it was seen before.
const words = 'the old map of the river lay open while the rain kept falling on the harbour'.split(' ');
function prompt(count) {
  const filler = Array.from({ length: count }, (_, index) => words[index % words.length]);
  return `${Date.now()}-${exec.vu.idInTest}-${exec.vu.iterationInInstance}. ${filler.join(' ')}.`;
}

// The usage of the last event that is JSON; null if the stream broke off or had an error in it.
function lastUsage(body) {
  const start = body.lastIndexOf('data: {');
  if (start < 0 || !body.includes('data: [DONE]')) {
    return null;
  }
  const { usage } = parsed(body.slice(start + 6, body.indexOf('\n', start)));
  return usage && usage.completion_tokens > 0 ? usage : null;
}

// An object in any case: an exception would skip the check that it is for.
function parsed(json) {
  try {
    return JSON.parse(json) || {};
  } catch {
    return {};
  }
}

// Whether it is the status, in OpenAI's envelope and with that code.
function refusal(response, status, code) {
  const { error } = parsed(response.body);
  return (
    response.status === status &&
    Boolean(error && error.message) &&
    Object.keys(error).sort().join() === 'code,message,param,type' &&
    error.code === code
  );
}

function text(name, fallback) {
  return __ENV[name] || fallback;
}

function number(name, fallback) {
  const value = Number(text(name, fallback));
  if (!(value >= 0)) {
    throw new Error(`${name} is no number`);
  }
  return value;
}
