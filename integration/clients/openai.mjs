import OpenAI from 'openai';
import {all, leave, line, prompt, result, tell} from './results.mjs';

const client = new OpenAI({apiKey: 'secret', baseURL: process.argv[2] + '/v1', maxRetries: 0});
const request = (model, content = 'Hello') => ({model, messages: [{role: 'user', content}]});
const ask = (model, content) => client.chat.completions.create(request(model, content));
const stream = (model, options) => client.chat.completions.create({...request(model), stream: true}, options);

for (const name of ['text', 'tool', 'unended', 'overloaded', 'unauthorized', 'limited', 'failing']) {
  await result(name, async () => all(await stream(name)));
}
// What has come before it broke, a client may have read or not.
await result('broken', async () => ({failure: (await all(await stream('broken'))).failure}));
await result('whole', () => ask('whole'));
await result('large', () => ask('large', prompt));
await leave((model, signal) => stream(model, {signal}));
tell('done');
await line();
