// Tells of every request that a server of this process gets, and of the end of its response. Import it first.

import {subscribe} from 'node:diagnostics_channel';
import {tell} from './tell.mjs';

let connections = 0;

subscribe('tracing:net.server.listen:asyncEnd', ({server}) => {
  tell({event: 'listening', address: `127.0.0.1:${server.address().port}`});
});

subscribe('http.server.request.start', ({request, response}) => {
  const connection = ++connections;
  const what = {connection, method: request.method, path: request.url, last_event_id: request.headers['last-event-id']};
  tell({event: 'open', ...what});
  response.on('close', () => tell({event: 'close', ...what, finished: response.writableFinished}));
});
