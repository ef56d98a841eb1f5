// The event stream of the common tutorial, with Node's http module.

import http from 'node:http';
import {tell} from './tell.mjs';

let connections = 0;

const server = http.createServer((req, res) => {
  const connection = ++connections;
  tell({event: 'open', connection, protocol: `HTTP/${req.httpVersion}`, last_event_id: req.headers['last-event-id']});

  res.writeHead(200, {
    'Content-Type': 'text/event-stream',
    'Cache-Control': 'no-cache',
    'Connection': 'keep-alive',
  });

  let count = 0;
  const timer = setInterval(() => {
    res.write(`data: ${++count}\n\n`);
  }, 40);

  req.on('close', () => {
    clearInterval(timer);
    res.end();
    tell({event: 'close', connection});
  });
});

server.listen(0, '127.0.0.1', () => tell({event: 'listening', address: `127.0.0.1:${server.address().port}`}));
