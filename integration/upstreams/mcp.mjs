// An MCP server over Streamable HTTP whose sessions can be resumed, with the event store of the SDK.

import './watch.mjs';
import {randomUUID} from 'node:crypto';
import http from 'node:http';
import {setTimeout} from 'node:timers/promises';
import {InMemoryEventStore} from '@modelcontextprotocol/sdk/examples/shared/inMemoryEventStore.js';
import {McpServer} from '@modelcontextprotocol/sdk/server/mcp.js';
import {StreamableHTTPServerTransport} from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import {z} from 'zod';

const text = (content) => ({content: [{type: 'text', text: content}]});

const createServer = () => {
  const server = new McpServer({name: 'test', version: '1.0.0'}, {capabilities: {logging: {}}});
  // On the stream of the session, not that of the call.
  server.registerTool('announce', {inputSchema: {message: z.string()}}, async ({message}) => {
    await server.server.sendLoggingMessage({level: 'info', data: message});
    return text('announced');
  });
  // With close it ends the response after the second step: the client is to come back for the rest.
  server.registerTool('count', {inputSchema: {steps: z.number(), close: z.boolean()}}, async ({steps, close}, extra) => {
    for (let progress = 1; progress <= steps; progress++) {
      await setTimeout(50);
      const params = {progress, total: steps, progressToken: extra._meta.progressToken};
      await extra.sendNotification({method: 'notifications/progress', params});
      if (close && progress === 2) extra.closeSSEStream();
    }
    return text(`counted to ${steps}`);
  });
  return server;
};

const transports = new Map();

http.createServer(async (req, res) => {
  let transport = transports.get(req.headers['mcp-session-id']);
  if (!transport) {
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      eventStore: new InMemoryEventStore(),
      retryInterval: 100,
      onsessioninitialized: (id) => transports.set(id, transport),
    });
    await createServer().connect(transport);
  }
  await transport.handleRequest(req, res);
}).listen(0, '127.0.0.1');
