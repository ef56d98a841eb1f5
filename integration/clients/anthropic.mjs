import Anthropic from '@anthropic-ai/sdk';
import {all, leave, line, prompt, result, tell} from './results.mjs';

const client = new Anthropic({apiKey: 'secret', baseURL: process.argv[2], maxRetries: 0});
const request = (model, content = 'Hello') => ({model, max_tokens: 1000, messages: [{role: 'user', content}]});
const ask = (model, content) => client.messages.create(request(model, content));
const stream = (model, options) => client.messages.create({...request(model), stream: true}, options);

for (const name of ['text', 'tool', 'unended', 'overloaded', 'unauthorized', 'limited', 'failing']) {
  await result(name, async () => all(await stream(name)));
}
// What the helper of the SDK makes of it.
await result('message', () => client.messages.stream(request('tool')).finalMessage());
// What has come before it broke, a client may have read or not.
await result('broken', async () => ({failure: (await all(await stream('broken'))).failure}));
await result('whole', () => ask('whole'));
await result('large', () => ask('large', prompt));
await leave((model, signal) => stream(model, {signal}));
tell('done');
await line();
