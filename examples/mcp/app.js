// An MCP server over Streamable HTTP, with one tool that takes its time.
import {randomUUID} from 'node:crypto';
import http from 'node:http';
import {setTimeout} from 'node:timers/promises';
import {McpServer} from '@modelcontextprotocol/sdk/server/mcp.js';
import {StreamableHTTPServerTransport} from '@modelcontextprotocol/sdk/server/streamableHttp.js';

const sessions = new Map();

async function open() {
  const server = new McpServer({name: 'example', version: '1.0.0'});
  server.registerTool('think', {description: 'Thinks for a while.'}, async () => {
    await setTimeout(2500);
    return {content: [{type: 'text', text: 'thought about it'}]};
  });
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => sessions.set(id, transport),
  });
  await server.connect(transport);
  return transport;
}

http.createServer(async (req, res) => {
  const transport = sessions.get(req.headers['mcp-session-id']) ?? await open();
  await transport.handleRequest(req, res);
}).listen(3000, 'localhost');
