// The SDKs of language models, all at once, with models that think before they answer.

import Anthropic from '@anthropic-ai/sdk';
import {createOpenAI} from '@ai-sdk/openai';
import {streamText} from 'ai';
import OpenAI from 'openai';
import {all, failure, line, result, tell} from './results.mjs';

const [, , url, ...models] = process.argv;
const openai = new OpenAI({apiKey: 'secret', baseURL: url + '/v1', maxRetries: 0});
const anthropic = new Anthropic({apiKey: 'secret', baseURL: url, maxRetries: 0});
const vercel = createOpenAI({apiKey: 'secret', baseURL: url + '/v1'});
const messages = [{role: 'user', content: 'Hello'}];

const asks = {
  async openai(model) {
    const {chunks, ...rest} = await all(await openai.chat.completions.create({model, messages, stream: true}));
    return {text: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), ...rest};
  },
  async anthropic(model) {
    const {chunks, ...rest} = await all(await anthropic.messages.create({model, messages, max_tokens: 1000, stream: true}));
    return {text: chunks.map((chunk) => chunk.delta?.text ?? '').join(''), ...rest};
  },
  async ai(model) {
    const answer = streamText({model: vercel.chat(model), prompt: 'Hello', maxRetries: 0, onError() {}});
    const {chunks} = await all(answer.fullStream);
    const error = chunks.find((part) => part.type === 'error')?.error;
    const text = chunks.map((part) => part.type === 'text-delta' ? part.text : '').join('');
    return {text, ...(error && {failure: error.constructor === Object ? {body: error} : failure(error)})};
  },
};

await Promise.all(models.flatMap((model) =>
  Object.entries(asks).map(([name, ask]) => result(`${name}: ${model}`, () => ask(model)))));
tell('done');
await line();
