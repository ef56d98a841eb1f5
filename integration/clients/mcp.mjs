// A client of MCP: mcp.mjs <url> http|sse <what it does>.

import {Client} from '@modelcontextprotocol/sdk/client/index.js';
import {SSEClientTransport} from '@modelcontextprotocol/sdk/client/sse.js';
import {StreamableHTTPClientTransport} from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {LoggingMessageNotificationSchema} from '@modelcontextprotocol/sdk/types.js';
import {line, result, tell} from './results.mjs';

const [, , url, kind, action] = process.argv;
const Transport = kind === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;

const connect = async () => {
  const client = new Client({name: 'test', version: '1.0.0'});
  client.onerror = (error) => console.error('error:', error.message);
  const transport = new Transport(new URL(url));
  client.progress = [];
  transport.onmessage = ({method, params}) => {
    if (method === 'notifications/progress') client.progress.push({progress: params.progress, total: params.total});
  };
  await client.connect(transport);
  return client;
};

const call = (client, name, args, options) => client.callTool({name, arguments: args}, undefined, options);

// progressing calls a tool that tells of its progress. The SDK does not pass on steps with which the answer comes, so
// what is seen is what has come; without the last step, which may come after the answer.
const progressing = async (client, name, args, onprogress = () => {}) => {
  client.progress = [];
  const value = await call(client, name, args, {onprogress});
  return {value, seen: client.progress.filter(({progress, total}) => progress < total)};
};

const both = (run) => Promise.all(['one', 'two'].map(run));

const actions = {
  // Two sessions at once.
  tools: () =>
    both(async (label) => {
      const client = await connect();
      await result(`list ${label}`, () => client.listTools());
      const echoes = Array.from({length: 20}, (_, i) => call(client, 'echo', {message: `${label} ${i}`}));
      await result(`progress ${label}`, () =>
        progressing(client, 'trigger-long-running-operation', {duration: 0.4, steps: label === 'one' ? 4 : 8}));
      await result(`echo ${label}`, () => Promise.all(echoes));
      await result(`failure ${label}`, () => client.callTool({name: 'no such tool'}));
      await client.close();
    }),

  // A tool that tells nothing for seconds.
  async silent() {
    const client = await connect();
    await result('silent', () => call(client, 'trigger-long-running-operation', {duration: 4, steps: 1}));
  },

  // What a server tells a session outside of its calls.
  async announce() {
    const announced = {one: [], two: []};
    const all = Promise.withResolvers();
    const clients = await both(async (label) => {
      const client = await connect();
      client.setNotificationHandler(LoggingMessageNotificationSchema, ({params}) => {
        announced[label].push(params.data);
        if (announced.one.length + announced.two.length === 20) all.resolve();
      });
      return {label, client};
    });
    await line(); // when both listen
    await Promise.all(clients.map(async ({label, client}) => {
      for (let i = 0; i < 10; i++) await call(client, 'announce', {message: `${label} ${i}`});
    }));
    await all.promise;
    tell('announced', announced);
  },

  // A call whose connection is cut.
  async resume() {
    const client = await connect();
    await result('counted', () =>
      progressing(client, 'count', {steps: 10, close: false}, ({progress}) => tell(`progress ${progress}`)));
  },

  // A call whose connection the server ends.
  async poll() {
    const client = await connect();
    await result('counted', () => progressing(client, 'count', {steps: 6, close: true}));
  },

  // A client that closes while a tool runs.
  async close() {
    const client = await connect();
    call(client, 'trigger-long-running-operation', {duration: 60, steps: 60}, {onprogress: () => tell('running')})
      .catch((error) => tell('call failed', error.message));
    await line();
    tell('left');
    await client.close();
  },
};

await actions[action]();
tell('done');
await line();
