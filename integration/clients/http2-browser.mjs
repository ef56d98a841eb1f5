// Drives Chromium as a visitor whose tabs share one connection of HTTP/2: each tab follows a stream and makes a small
// request every 50 ms. Commands come on standard input, a JSON object a line, and each is answered with done or failed.
// Arguments: the browser, the origin, its port's address, a timeout in milliseconds.
import {createInterface} from 'node:readline';
import {chromium} from 'playwright-core';

const report = (event, data) => console.log(JSON.stringify({event, data: typeof data === 'string' ? data : JSON.stringify(data ?? null)}));

const [executablePath, origin, address, timeout] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-proxy-server',
    `--host-resolver-rules=MAP gateway.test ${address}`],
});
const context = await browser.newContext({ignoreHTTPSErrors: true});
context.setDefaultTimeout(Number(timeout));

// What a tab runs. It counts what it sees; look returns that.
const follow = () => {
  const seen = window.seen = {events: [], opened: 0, errors: 0, requests: 0, failed: 0};
  const source = new EventSource('/events');
  source.onopen = () => { seen.opened++; };
  source.onmessage = (event) => { seen.events.push(Number(event.data.split('\n')[0])); };
  source.onerror = () => { seen.errors++; };
  setInterval(async () => {
    try {
      const text = await (await fetch('/small', {cache: 'no-store'})).text();
      if (text !== 'small') throw new Error(text);
      seen.requests++;
    } catch {
      seen.failed++;
    }
  }, 50);
};

const tabs = [];
const commands = {
  open: async () => {
    const tab = await context.newPage();
    tabs.push(tab);
    await tab.goto(`${origin}/small`);
    await tab.evaluate(follow);
  },
  reload: async ({tab}) => {
    await tabs[tab].reload();
    await tabs[tab].evaluate(follow);
  },
  until: async ({tab, events}) => {
    await tabs[tab].waitForFunction((n) => window.seen.events.length >= n && window.seen.requests > 0, events);
  },
  look: async ({tab}) => tabs[tab].evaluate(() => window.seen),
  // download gets a file, and tells its hash, the protocol, and whether it took the time for a connection.
  download: async ({tab, path}) => tabs[tab].evaluate(async (path) => {
    performance.clearResourceTimings();
    performance.setResourceTimingBufferSize(10000);
    const bytes = await (await fetch(path, {cache: 'no-store'})).arrayBuffer();
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    const [entry] = performance.getEntriesByName(new URL(path, location).href);
    return {
      sha256: [...hash].map((byte) => byte.toString(16).padStart(2, '0')).join(''),
      protocol: entry.nextHopProtocol,
      connecting: entry.connectEnd - entry.connectStart,
    };
  }, path),
};

for await (const line of createInterface({input: process.stdin})) {
  const {command, ...rest} = JSON.parse(line);
  try {
    report('done', await commands[command](rest));
  } catch (error) {
    report('failed', String(error));
  }
}
await browser.close();
