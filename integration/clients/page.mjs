// Drives Chromium as a person does who looks at the live page. Commands come on standard input, a JSON object a line, and
// each is answered with a report: done with what came of it, or failed. What a browser complains of is a problem.
import {createInterface} from 'node:readline';
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {chromium} from 'playwright-core';

const report = (event, data) => console.log(JSON.stringify({event, data: typeof data === 'string' ? data : JSON.stringify(data ?? null)}));

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const [executablePath, origin, timeout] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-proxy-server'],
});
const context = await browser.newContext({locale: 'en-GB', timezoneId: 'UTC'});
context.setDefaultTimeout(Number(timeout));
const page = await context.newPage();
page.on('console', (message) => {
  // A lost connection is told there as well; the tests cause some.
  if (['error', 'warning'].includes(message.type()) && !message.text().includes('net::ERR_')) report('problem', message.text());
});
page.on('pageerror', (error) => report('problem', String(error)));
page.on('request', (request) => {
  if (!request.url().startsWith(origin) && !request.url().startsWith('data:')) report('problem', `request to ${request.url()}`);
});

const commands = {
  goto: async ({url}) => (await page.goto(url)).status(),
  // until waits for an expression to be true. The page's policy does not let its own world evaluate one.
  until: async ({js}) => {
    for (const end = Date.now() + Number(timeout); !await page.evaluate(js);) {
      if (Date.now() > end) throw new Error(`not true on a page that says ${await page.evaluate('document.body.innerText')}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  },
  eval: async ({js}) => page.evaluate(js),
  click: async ({selector}) => page.click(selector),
  press: async ({key}) => page.keyboard.press(key),
  look: async ({width, height, scheme}) => {
    await page.setViewportSize({width, height});
    await page.emulateMedia({colorScheme: scheme});
  },
  shot: async ({path}) => { await page.screenshot({path}); },
  // audit lists what makes a page hard to use with assistive technology.
  audit: async () => {
    await page.evaluate(axe);
    const {violations} = await page.evaluate('axe.run(document, {resultTypes: ["violations"]})');
    return violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(' ')).slice(0, 3).join(', ')}`);
  },
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
