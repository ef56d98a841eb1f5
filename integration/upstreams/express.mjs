// The event stream of the common tutorial, with Express.

import express from 'express';
import {tell} from './tell.mjs';

const app = express();
let connections = 0;

app.get('/express', (req, res) => {
  const connection = ++connections;
  tell({event: 'open', connection, protocol: `HTTP/${req.httpVersion}`, last_event_id: req.get('last-event-id')});

  res.set({
    'Content-Type': 'text/event-stream',
    'Cache-Control': 'no-cache',
    'Connection': 'keep-alive',
  });
  res.flushHeaders();

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

const server = app.listen(0, '127.0.0.1', () => {
  tell({event: 'listening', address: `127.0.0.1:${server.address().port}`});
});
