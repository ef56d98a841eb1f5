// The reference server of MCP, with the transport that the arguments name: streamableHttp, or the older one, sse.

import './watch.mjs';

process.env.PORT = '0';
await import('@modelcontextprotocol/server-everything/dist/index.js');
