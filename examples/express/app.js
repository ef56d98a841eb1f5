// Notifications with Express and sessions. Nothing in it knows of a gateway.
import express from 'express';
import session from 'express-session';

const app = express();
// Without rolling and saveUninitialized no answer sets a cookie but that of the login: one that does is not shared.
app.use(session({secret: 'change me', resave: false, saveUninitialized: false}));

const clients = new Map(); // the open responses of each user

app.post('/login/:user', (req, res) => {
  req.session.user = req.params.user;
  res.send(`hello ${req.params.user}\n`);
});

app.get('/notifications', (req, res) => {
  const {user} = req.session;
  if (!user) return res.sendStatus(401);
  res.set('Content-Type', 'text/event-stream');
  res.flushHeaders();
  if (!clients.has(user)) clients.set(user, new Set());
  clients.get(user).add(res);
  res.on('close', () => clients.get(user).delete(res));
});

app.post('/notify/:user', (req, res) => {
  const responses = clients.get(req.params.user) ?? [];
  for (const response of responses) response.write(`data: mail for ${req.params.user}\n\n`);
  res.send('sent\n');
});

app.get('/connections/:user', (req, res) => res.send(`${clients.get(req.params.user)?.size ?? 0}\n`));

app.listen(3000, 'localhost');
