// An authentication service and an application in one process. They could be anywhere.
import http from 'node:http';

const users = new Map([['Bearer a', 'alice'], ['Bearer b', 'bob']]);
const clients = new Set();

http.createServer((req, res) => {
  switch (req.url) {
    case '/auth': {
      const user = users.get(req.headers.authorization);
      return user ? res.writeHead(200, {'Remote-User': user}).end() : res.writeHead(401).end('who are you?\n');
    }
    case '/notifications': {
      const client = {user: req.headers['remote-user'], res};
      clients.add(client);
      res.on('close', () => clients.delete(client));
      res.writeHead(200, {'Content-Type': 'text/event-stream'}).flushHeaders();
      return undefined;
    }
    default:
      return res.writeHead(404).end();
  }
}).listen(3000, 'localhost');

// Everybody gets the number of the second, and their name.
setInterval(() => {
  for (const {user, res} of clients) res.write(`data: ${user} ${Math.floor(Date.now() / 200)}\n\n`);
}, 200);
