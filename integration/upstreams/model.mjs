// The APIs of OpenAI and Anthropic, without the model: the name of the model in the request says what it answers.

import './watch.mjs';
import {createHash} from 'node:crypto';
import http from 'node:http';
import {setImmediate, setTimeout} from 'node:timers/promises';
import {tell} from './tell.mjs';

const tokens = ['Grüße', ' aus', ' 東京', ' 👩‍💻!', '\n\n', 'data: no event', '\r\n', ': no comment', ' end'];
const toolArguments = ['{"ci', 'ty":"Zü', 'rich', '","days', '":3}'];

// Each API: its blocks of an event stream, and its answer in one.
const block = (data, type) => `${type ? `event: ${type}\n` : ''}data: ${JSON.stringify(data)}\n\n`;

const chat = {
  chunk(delta, finish_reason = null) {
    return block({
      id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1700000000, model: 'fake',
      choices: [{index: 0, delta, finish_reason}],
    });
  },
  begin() {
    return [this.chunk({role: 'assistant', content: ''})];
  },
  token(content) {
    return this.chunk({content});
  },
  toolCall() {
    const part = (call) => this.chunk({tool_calls: [{index: 0, ...call}]});
    return [
      part({id: 'call_1', type: 'function', function: {name: 'weather', arguments: ''}}),
      ...toolArguments.map((text) => part({function: {arguments: text}})),
    ];
  },
  end(reason) {
    const usage = {prompt_tokens: 1, completion_tokens: 2, total_tokens: 3};
    return [
      this.chunk({}, reason === 'tool' ? 'tool_calls' : 'stop'),
      block({id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1700000000, model: 'fake', choices: [], usage}),
      'data: [DONE]\n\n',
    ];
  },
  whole(content) {
    return {
      id: 'chatcmpl-1', object: 'chat.completion', created: 1700000000, model: 'fake',
      choices: [{index: 0, message: {role: 'assistant', content}, finish_reason: 'stop'}],
      usage: {prompt_tokens: 1, completion_tokens: 2, total_tokens: 3},
    };
  },
  failure: (type, message) => ({error: {message, type, param: null, code: type}}),
  midway: (type, message) => block({error: {message, type, param: null, code: type}}),
};

const messages = {
  event: (data) => block(data, data.type),
  begin() {
    const message = {
      id: 'msg_1', type: 'message', role: 'assistant', model: 'fake', content: [], stop_reason: null,
      stop_sequence: null, usage: {input_tokens: 1, output_tokens: 1},
    };
    return [
      this.event({type: 'message_start', message}),
      this.event({type: 'content_block_start', index: 0, content_block: {type: 'text', text: ''}}),
      this.event({type: 'ping'}),
    ];
  },
  token(text) {
    return this.event({type: 'content_block_delta', index: 0, delta: {type: 'text_delta', text}});
  },
  toolCall() {
    const content_block = {type: 'tool_use', id: 'toolu_1', name: 'weather', input: {}};
    return [
      this.event({type: 'content_block_stop', index: 0}),
      this.event({type: 'content_block_start', index: 1, content_block}),
      ...toolArguments.map((partial_json) =>
        this.event({type: 'content_block_delta', index: 1, delta: {type: 'input_json_delta', partial_json}})),
    ];
  },
  end(reason) {
    const stop_reason = reason === 'tool' ? 'tool_use' : 'end_turn';
    return [
      this.event({type: 'content_block_stop', index: reason === 'tool' ? 1 : 0}),
      this.event({type: 'message_delta', delta: {stop_reason, stop_sequence: null}, usage: {output_tokens: 2}}),
      this.event({type: 'message_stop'}),
    ];
  },
  whole(text) {
    return {
      id: 'msg_1', type: 'message', role: 'assistant', model: 'fake', content: [{type: 'text', text}],
      stop_reason: 'end_turn', stop_sequence: null, usage: {input_tokens: 1, output_tokens: 2},
    };
  },
  failure: (type, message) => ({type: 'error', error: {type, message}}),
  midway: (type, message) => block({type: 'error', error: {type, message}}, 'error'),
};

const apis = {'/v1/chat/completions': chat, '/v1/messages': messages};

// send writes blocks in pieces that end anywhere, in the middle of a character too.
const send = async (res, blocks) => {
  const bytes = Buffer.from(blocks.join(''));
  for (let from = 0, size = 1; from < bytes.length; from += size, size = (size % 61) + 7) {
    res.write(bytes.subarray(from, from + size));
    await setImmediate();
  }
};

const readBody = async (req) => {
  const pieces = [];
  let length = 0;
  for await (const piece of req) {
    if (pieces.push(piece) === 1) tell({event: 'body begins', path: req.url});
    length += piece.length;
  }
  return Buffer.concat(pieces, length);
};

const json = (res, status, value, headers) => {
  res.writeHead(status, {'Content-Type': 'application/json', 'X-Request-Id': 'req_1', ...headers});
  res.end(JSON.stringify(value));
};

const answers = {
  // With a pause.
  async text(api, res) {
    await send(res, api.begin());
    await setTimeout(100);
    await send(res, [...tokens.map((token) => api.token(token)), ...api.end()]);
    res.end();
  },
  async tool(api, res) {
    await send(res, [...api.begin(), ...api.toolCall(), ...api.end('tool')]);
    res.end();
  },
  // Without the last blank line: clients take the event all the same.
  async unended(api, res) {
    const blocks = [...api.begin(), ...tokens.map((token) => api.token(token)), ...api.end()];
    await send(res, [blocks.join('').trimEnd()]);
    res.end();
  },
  // An error that is told in the stream.
  async overloaded(api, res) {
    await send(res, [...api.begin(), api.token('so far'), api.midway('overloaded_error', 'too much')]);
    res.end();
  },
  // A connection that breaks in the middle of an event.
  async broken(api, res) {
    await send(res, [...api.begin(), api.token('so far'), api.token('and').slice(0, -10)]);
    res.destroy();
  },
  // 2,000 tokens, which are numbers.
  async long(api, res) {
    for (let i = 0; i < 2000 && !res.destroyed; i++) {
      await send(res, [api.token(String(i))]);
      if (i % 20 === 0) await setTimeout(20);
    }
    await send(res, api.end());
    res.end();
  },
  // It goes on until the client leaves.
  async endless(api, res) {
    tell({event: 'endless'});
    await send(res, api.begin());
    while (!res.destroyed) {
      await send(res, [api.token('on and ')]);
      await setTimeout(20);
    }
  },
};

const plain = {
  whole: (api, res) => json(res, 200, api.whole(tokens.join(''))),
  unauthorized: (api, res) => json(res, 401, api.failure('invalid_api_key', 'who are you?')),
  limited: (api, res) => json(res, 429, api.failure('rate_limit_error', 'later'), {'Retry-After': '7'}),
  failing: (api, res) => json(res, 500, api.failure('server_error', 'oh')),
  large(api, res, body) {
    json(res, 200, api.whole(`${body.length} bytes, ${createHash('sha256').update(body).digest('hex')}`));
  },
  thinking() {}, // never answers
};

// A name like "40s text" is that of a model that thinks before it answers.
const thoughts = (name) => {
  const [, seconds, model] = /^(\d+)s (.*)/.exec(name) ?? [, 0, name];
  return [seconds * 1000, model];
};

http.createServer(async (req, res) => {
  const api = apis[req.url];
  const body = await readBody(req);
  const [wait, model] = thoughts(JSON.parse(body).model);
  await setTimeout(wait);
  if (plain[model]) {
    plain[model](api, res, body);
    return;
  }
  res.writeHead(200, {'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-cache', 'X-Request-Id': 'req_1'});
  await answers[model](api, res);
}).listen(0, '127.0.0.1');
