import {createOpenAI} from '@ai-sdk/openai';
import {generateText, jsonSchema, streamText, tool} from 'ai';
import {all, failure, leave, line, prompt, result, tell} from './results.mjs';

const openai = createOpenAI({apiKey: 'secret', baseURL: process.argv[2] + '/v1'});
const city = {type: 'object', properties: {city: {type: 'string'}, days: {type: 'number'}}, required: ['city', 'days']};
const tools = {weather: tool({description: 'the weather of a city', inputSchema: jsonSchema(city)})};
const request = (model, content = 'Hello') => ({model: openai.chat(model), prompt: content, tools, maxRetries: 0, onError() {}});

// Without times and addresses.
const parts = async (model) => {
  const {chunks, ...rest} = await all(streamText(request(model)).fullStream);
  for (const part of chunks) {
    for (const name of ['performance', 'request', 'response']) delete part[name];
    if (part.error) part.error = failure(part.error);
  }
  return {chunks, ...rest};
};

for (const name of ['text', 'tool', 'unended', 'overloaded', 'unauthorized', 'limited', 'failing']) {
  await result(name, () => parts(name));
}
// What has come before it broke, a client may have read or not.
await result('broken', async () => ({failure: (await parts('broken')).failure}));
await result('whole', async () => (await generateText(request('whole'))).text);
await result('large', async () => (await generateText(request('large', prompt))).text);
await leave((model, abortSignal) => streamText({...request(model), abortSignal}).textStream);
tell('done');
await line();
