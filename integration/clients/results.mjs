// What the clients of models and tools have in common.

import {createInterface} from 'node:readline';

const tell = (event, value) => {
  process.stdout.write(JSON.stringify({event, data: JSON.stringify(value), at: Date.now() * 1e6}) + '\n');
};
export {tell};

process.stdin.on('end', () => process.exit());
const lines = createInterface({input: process.stdin})[Symbol.asyncIterator]();

// line waits for a line from the test.
export const line = () => lines.next();

// failure is what clients see of an error.
export const failure = (error) => ({
  kind: error.constructor.name,
  status: error.status ?? error.statusCode ?? error.code,
  message: error.message,
  retry_after: error.headers?.get?.('retry-after') ?? error.responseHeaders?.['retry-after'],
  request_id: error.headers?.get?.('x-request-id') ?? error.responseHeaders?.['x-request-id'],
  body: error.error ?? error.responseBody,
});

// result tells what a function returns, or how it fails.
export const result = async (name, run) => {
  let value;
  try {
    value = await run();
  } catch (error) {
    value = {failure: failure(error)};
  }
  tell(name, value);
};

// all collects what comes out of a stream, to its end or its error.
export const all = async (stream) => {
  const chunks = [];
  try {
    for await (const chunk of stream) chunks.push(chunk);
  } catch (error) {
    return {chunks, failure: failure(error)};
  }
  return {chunks};
};

// leave aborts what a function has begun, when the test says so: in the middle of an endless answer, and while the model
// still thinks.
export const leave = async (run) => {
  for (const model of ['endless', 'thinking']) {
    const controller = new AbortController();
    line().then(() => {
      tell(`left ${model}`);
      controller.abort();
    });
    let chunks = 0;
    try {
      for await (const chunk of await run(model, controller.signal)) if (++chunks === 5) tell('five chunks');
    } catch (error) {
      if (!controller.signal.aborted) throw error;
    }
  }
};

export const prompt = 'Grüße? '.repeat(20 << 17); // 20 MiB and a little more
