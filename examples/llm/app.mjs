// A stand-in for the server of a language model, with an API like that of OpenAI: an answer of forty words, slowly.
import http from 'node:http';
import {setTimeout} from 'node:timers/promises';

let asked = 0;

http.createServer(async (req, res) => {
  if (req.method === 'GET' && req.url === '/asked') return res.end(`${asked}\n`);
  if (req.method !== 'POST' || req.url !== '/v1/chat/completions') return res.writeHead(405).end('POST, please\n');
  asked++;
  res.writeHead(200, {'Content-Type': 'text/event-stream'});
  for (let word = 1; word <= 40 && !res.destroyed; word++) {
    res.write(`data: ${JSON.stringify({choices: [{index: 0, delta: {content: `word${word} `}}]})}\n\n`);
    await setTimeout(100);
  }
  res.end('data: [DONE]\n\n');
}).listen(3000, 'localhost');
