// A model's server with OpenAI's Responses API, as that is documented. The first argument says whether it keeps answers
// made in the background, and gives the rest of one to who asks with starting_after; the second, how often it cuts its
// connections, somewhere.

import './watch.mjs';
import http from 'node:http';
import {setTimeout} from 'node:timers/promises';
import {tell} from './tell.mjs';

const [, , keeps, cuts] = process.argv;
const length = 2000;
let left = Number(cuts);

// event is the event with a number, of an answer.
const event = (n, response) => {
  const data = {type: 'response.output_text.delta', sequence_number: n, item_id: 'msg_1', output_index: 0, content_index: 0, delta: ` ${n}`, logprobs: []};
  if (n === 0 || n === length - 1) {
    Object.assign(data, {type: n ? 'response.completed' : 'response.created', response});
  }
  return `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`;
};

// answer sends the events from a number on, and may cut: not in the first one, which names the answer.
const answer = async (res, from, response) => {
  res.writeHead(200, {'Content-Type': 'text/event-stream; charset=utf-8'});
  let some = left > 0 ? 1000 + Math.floor(Math.random() * 3000) : Infinity;
  for (let n = from; n < length && !res.destroyed; n++) {
    const bytes = Buffer.from(event(n, response));
    if (some < bytes.length) {
      left--;
      res.write(bytes.subarray(0, some), () => res.destroy());
      return;
    }
    some -= bytes.length;
    res.write(bytes);
    if (n % 20 === 0) await setTimeout(1);
  }
  res.end();
};

http.createServer(async (req, res) => {
  let body = '';
  for await (const piece of req) body += piece;
  const url = new URL(req.url, 'http://localhost');
  tell({event: req.method, path: req.url});
  if (req.method === 'POST' && url.pathname === '/v1/responses') {
    const {background = false, model} = JSON.parse(body);
    await answer(res, 0, {id: 'resp_1', object: 'response', status: 'in_progress', background, model, output: []});
    return;
  }
  if (keeps === 'keeps' && url.pathname === '/v1/responses/resp_1' && url.searchParams.get('stream') === 'true') {
    await answer(res, Number(url.searchParams.get('starting_after')) + 1, {id: 'resp_1', object: 'response', status: 'completed', background: true, output: []});
    return;
  }
  res.writeHead(404, {'Content-Type': 'application/json'});
  res.end('{"error":{"message":"no such response","type":"invalid_request_error","param":null,"code":null}}');
}).listen(0, '127.0.0.1');
