// The SDK of OpenAI with the Responses API. The second argument says how often it leaves an answer, and comes back for the
// rest as the SDK does.

import OpenAI from 'openai';
import {failure, line, tell} from './results.mjs';

const [, , url, cuts] = process.argv;
const client = new OpenAI({apiKey: 'secret', baseURL: url + '/v1', maxRetries: 0});
const numbers = [];
let id;
let error;
try {
  let stream = await client.responses.create({model: 'fake', input: 'Hello', stream: true, background: true});
  for (let left = Number(cuts); ; left--) {
    let some = left > 0 ? 1 + Math.floor(Math.random() * 40) : Infinity;
    for await (const event of stream) {
      id ??= event.response?.id;
      numbers.push(event.sequence_number);
      if (--some === 0) break;
    }
    if (left === 0) break;
    stream = await client.responses.retrieve(id, {stream: true, starting_after: numbers.at(-1)});
  }
} catch (e) {
  error = failure(e);
}
tell('answer', {events: numbers.length, inOrder: numbers.every((n, i) => n === i), ...(error && {failure: error})});
await line();
