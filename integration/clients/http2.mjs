// A client of HTTP/2: one session on which it follows a stream, makes a small request again and again, and, if it is
// named, gets a large file, whose SHA-256 it tells. Arguments: the origin, the stream's path, the file's path or "", the
// window that each stream begins with.
import http2 from 'node:http2';
import {createHash} from 'node:crypto';
import {tell} from './tell.mjs';

const [, , origin, events, file, window] = process.argv;
const report = (event, data) => process.stdout.write(JSON.stringify({event, data: String(data)}) + '\n');
const session = http2.connect(origin, {rejectUnauthorized: false, settings: window ? {initialWindowSize: Number(window)} : {}});
let goodbye = false;
session.on('goaway', (code) => {
  goodbye = true;
  report('goaway', code);
});
session.on('error', (error) => report('problem', error));
session.on('close', () => report('closed', ''));

// get is given the chunks of an answer.
const get = (path, headers, chunk) => new Promise((resolve) => {
  const request = session.request({':path': path, ':authority': 'gateway.test', ...headers});
  request.on('response', (head) => report('status', `${path} ${head[':status']}`));
  request.on('data', chunk);
  request.on('error', (error) => {
    // What was sent after the server's goodbye is refused, for the client to send again.
    if (!goodbye || !/REFUSED_STREAM/.test(error.message)) report('problem', `${path}: ${error}`);
  });
  request.on('end', () => resolve(request.rstCode));
});

let text = '', event = {};
get(events, {accept: 'text/event-stream'}, (chunk) => {
  const lines = (text += chunk).split('\n');
  text = lines.pop();
  for (const line of lines) {
    if (line.startsWith('data: ')) event.data ??= line.slice(6);
    if (line.startsWith('id: ')) event.id = line.slice(4);
    if (line === '' && event.data) tell(event);
    if (line === '') event = {};
  }
}).then((code) => report('end', code));

if (file) {
  const hash = createHash('sha256');
  get(file, {}, (chunk) => hash.update(chunk)).then(() => report('file', hash.digest('hex')));
}

const small = setInterval(() => {
  if (session.closed || session.destroyed) return clearInterval(small);
  get('/small', {}, () => {});
}, 50);
